"""The scalars of proto3 JSON, one by one."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.schema.json_scalars import (
    FLOAT32_MAX,
    INT32,
    INT64,
    Number,
    read_bytes,
    read_float,
    read_int64,
    read_integer,
    read_timestamp,
    write_int64,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("1.0", 1),
        ("1e3", 1000),
        ("1.5e1", 15),
        ("-2147483648", -(2**31)),
        ("2147483647", 2**31 - 1),
        ("100e-2", 1),
    ],
)
def test_whole_numbers(text: str, value: int) -> None:
    assert read_integer(text, INT32) == value
    assert read_integer(Number(text), INT32) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "+1", "01", "1_0", "0x1", "1.5", "1e-1", "NaN", "٣", "2147483648", "-2147483649", "1e400"),
        *("1e999999999", "1e-999999999", "1e99999999999999999999", "9" * 5000, "1." + "0" * 5000, "true", ".5", "1."),
    ],
)
def test_no_whole_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        read_integer(text, INT32)


@pytest.mark.parametrize("value", [0, 1316130638171, 9007199254740993, 2**63 - 1, -(2**63)])
def test_every_digit_of_a_long(value: int) -> None:
    assert read_int64(value) == value
    assert read_int64(str(value)) == value
    assert write_int64(value) == str(value)
    assert write_int64(str(value)) == str(value)


@pytest.mark.parametrize("text", [str(2**63), str(-(2**63) - 1), "9223372036854775807.5", "1e19"])
def test_past_64_bits(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        read_integer(text, INT64)


def test_a_long_with_a_point_keeps_its_digits() -> None:
    assert read_integer("9007199254740993.0", INT64) == 9007199254740993


def test_numbers() -> None:
    assert read_float("1.5", None) == 1.5
    assert read_float(Number("-1e3"), None) == -1000.0
    assert read_float("NaN", FLOAT32_MAX) == "NaN"
    assert read_float("-Infinity", None) == "-Infinity"
    assert read_float("3.4028234663852886e38", FLOAT32_MAX) == FLOAT32_MAX


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "+1", " 1", "1e400", "-1e400", "3.5e38", "0x1p3", "1_0", "infinity"]
)
def test_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        read_float(text, FLOAT32_MAX)


def test_a_bare_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="number"):
        read_float(Number("NaN"), None)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("--__", b"\xfb\xef\xff"),
        ("++//", b"\xfb\xef\xff"),
        ("+-/_", b"\xfb\xef\xff"),
        ("QQ", b"A"),
        ("QQ==", b"A"),
        ("QUI", b"AB"),
        ("QUI=", b"AB"),
        ("", b""),
    ],
)
def test_base64_of_every_kind(text: str, data: bytes) -> None:
    assert read_bytes(text) == base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "text", ["Q", "QQ=", "QQ===", "====", "=", "Q Q=", "QQ\n", "Q=Q=", "ä", "QQ==QQ==", "AAAA=", "A!BC"]
)
def test_no_base64(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        read_bytes(text)


@given(st.binary(max_size=40), st.booleans(), st.booleans())
def test_bytes_come_back(data: bytes, url_safe: bool, padded: bool) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    assert base64.b64decode(read_bytes(text if padded else text.rstrip("="))) == data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-29T08:35:13.700719321Z", "2026-05-29T08:35:13.700719321Z"),
        ("2026-05-29T08:35:13.7Z", "2026-05-29T08:35:13.700Z"),
        ("2026-05-29T08:35:13.7007Z", "2026-05-29T08:35:13.700700Z"),
        ("2026-05-29T08:35:13.0000001Z", "2026-05-29T08:35:13.000000100Z"),
        ("2026-05-29T08:35:13.000Z", "2026-05-29T08:35:13Z"),
        ("2026-05-29T08:35:13+02:00", "2026-05-29T06:35:13Z"),
        ("2026-01-01T00:30:00.123456789+05:30", "2025-12-31T19:00:00.123456789Z"),
        ("2025-12-31T20:00:00-08:00", "2026-01-01T04:00:00Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00.5-00:01", "0001-01-01T00:01:00.500Z"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
        ("1970-01-01T00:00:00-00:00", "1970-01-01T00:00:00Z"),
    ],
)
def test_timestamps(text: str, expected: str) -> None:
    assert read_timestamp(text) == expected
    assert read_timestamp(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "2026-05-29",
            "2026-05-29T08:35:13",
            "2026-05-29 08:35:13Z",
            "2026-05-29t08:35:13Z",
            "2026-05-29T08:35:13z",
        ),
        *("2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "2016-12-31T23:59:60Z"),
        *("0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"),
        *(
            "2026-05-29T08:35:13.7007193211Z",
            "2026-05-29T08:35:13.Z",
            "2026-05-29T08:35:13+25:00",
            "٢٠٢٦-05-29T08:35:13Z",
        ),
        *("2026-05-29T08:35:13Z\n", "2026-05-29T08:35Z", "2026-05-29T08:35:13+0200", "2026-05-29T08:35:13+02:60"),
    ],
)
def test_no_timestamps(text: str) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        read_timestamp(text)


@given(
    st.datetimes(min_value=datetime.fromisoformat("0002-01-01"), max_value=datetime.fromisoformat("9998-12-31")),
    st.integers(0, 999),
    st.integers(-840, 840),
)
def test_a_moment_is_the_same_moment(moment: datetime, nanos: int, minutes: int) -> None:
    there = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    zone = there.strftime("%z")
    text = f"{moment.replace(microsecond=0).isoformat()}.{moment.microsecond:06d}{nanos:03d}{zone[:3]}:{zone[3:5]}"
    read = read_timestamp(text)
    whole, _, fraction = read.removesuffix("Z").partition(".")
    assert datetime.fromisoformat(whole + "Z") == there.replace(microsecond=0).astimezone(UTC)
    assert (fraction or "").ljust(9, "0") == f"{moment.microsecond:06d}{nanos:03d}"
    assert len(fraction) in (0, 3, 6, 9)
