from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.errors import PackageError
from insula.packages.config import read_config, write_config
from insula.packages.deployable import LIMIT_BOUNDS, ServiceLimits
from insula.packages.package import PackageConfig

LEAST = {"name": "Greeter", "version": "1.0.0"}


def read(**more: object) -> PackageConfig:
    return read_config(json.dumps(LEAST | more).encode())


def test_what_the_public_tool_writes() -> None:
    config = read(
        language="go",
        schema="./service.okra.gql",
        source="./",
        build={"output": "./build/service.wasm"},
        dev={"watch": ["*.go"], "exclude": None},
        something={"of": "another tool"},
    )
    assert (config.language, config.build["output"], config.limits) == ("go", "./build/service.wasm", ServiceLimits())


def test_what_is_ours() -> None:
    config = read(
        host_apis=["okra.log", "okra.env", "okra.log"],
        grants={"okra.env": {"keys": ["REGION"]}, "okra.context": {}},
        limits={"memory_mb": 32, "singleton": True},
    )
    assert config.host_apis == ("okra.log", "okra.env")
    assert config.grants["okra.env"] == {"keys": ["REGION"]}
    assert config.limits == ServiceLimits(memory_mb=32, singleton=True)
    assert read_config(write_config(config)) == config


def test_null_and_a_byte_order_mark_are_what_tools_write() -> None:
    assert read_config(b'\xef\xbb\xbf{"name": "A", "version": "1", "host_apis": null}\r\n').host_apis == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b'{\n "name": "a",\n oops }', r"not JSON: .*\(line 3\)"),
        (b"[" * 100_000, "not JSON"),
        (b'{"name": "\xff"}', "not JSON"),
        (b'{"build": {"x": ' + b"[" * 900 + b"]" * 900 + b"}}", "more than 64 deep"),
        (b"[1]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b"{}", "lacks name"),
        (b'{"name": "a"}', "lacks version"),
    ],
)
def test_refuses_what_is_no_configuration(data: bytes, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        read_config(data)


@pytest.mark.parametrize(
    ("more", "said", "hint"),
    [
        ({"name": 5}, "name: expected str, got int", ""),
        ({"name": ""}, "name must have 1 to 128", ""),
        ({"name": "a\u001b[2J"}, "printable", ""),
        ({"version": "1/2"}, "'1/2' is not a version", "1.0.0"),
        ({"version": ""}, "not a version", ""),
        ({"build": "x"}, "build: expected object, got str", ""),
        ({"host_apis": "okra.log"}, "host_apis: expected array, got str", ""),
        ({"host_apis": ["okra.log", 1]}, r"host_apis\[1\]: expected str", ""),
        ({"host_apis": ["Log Everything"]}, "is not the name of a host API", "okra.state"),
        ({"host_apis": [f"okra.a{n}" for n in range(101)]}, "more than 100", ""),
        ({"host_api": ["okra.log"]}, "no key 'host_api'", "did you mean host_apis?"),
        ({"hostApis": ["okra.log"]}, "no key 'hostApis'", "did you mean host_apis?"),
        ({"grant": {}}, "no key 'grant'", "did you mean grants?"),
        ({"grants": []}, "grants: expected object, got array", ""),
        ({"grants": {"okra.env": []}}, "grants.*: expected object, got array", ""),
        (
            {"host_apis": ["okra.fetch"], "grants": {"okra.fetc": {}}},
            "grants names 'okra.fetc', which host_apis does not ask for",
            "did you mean okra.fetch?",
        ),
        ({"grants": {"okra.sql": {}}}, "grants names 'okra.sql'", "to host_apis"),
        ({"limits": []}, "limits: expected object, got array", ""),
        ({"limits": {"memory": 5}}, "limits has no key 'memory'", "did you mean memory_mb?"),
        ({"limits": {"zzz": 5}}, "limits has no key 'zzz'", "the limits are memory_mb"),
        ({"limits": {"memory_mb": "64"}}, "limits.memory_mb: expected int, got str", ""),
        ({"limits": {"singleton": 1}}, "limits.singleton: expected bool, got int", ""),
        ({"limits": {"min_instances": 9}}, "min_instances is 9, but max_instances is 8", ""),
        ({"limits": {"min_instances": 2, "singleton": True}}, "a singleton has one instance", ""),
        ({"limits": {"mailbox": 10**30}}, "limits.mailbox.* must be from 1 to 65536|mailbox", ""),
    ],
)
def test_refuses_each_mistake_with_its_own_words(more: dict[str, object], said: str, hint: str) -> None:
    with pytest.raises(PackageError, match=said) as refused:
        read(**more)
    assert hint in (refused.value.hint or "")
    assert "okra.json" in refused.value.message


@pytest.mark.parametrize("key", LIMIT_BOUNDS)
def test_each_limit_has_bounds(key: str) -> None:
    least, most = LIMIT_BOUNDS[key]
    for beyond in (least - 1, most + 1):
        with pytest.raises(PackageError, match=rf"limits\.{key} is {beyond}; it must be from {least} to {most}"):
            read(limits={key: beyond})
    room = {"max_instances": 1024} if key == "min_instances" else {}
    for within in (least, most):
        assert getattr(read(limits=room | {key: within}).limits, key) == within


def test_every_number_of_the_limits_is_bounded() -> None:
    numbers = {key for key in ServiceLimits.__struct_fields__ if type(getattr(ServiceLimits(), key)) is int}
    assert numbers == set(LIMIT_BOUNDS)
    assert all(least <= getattr(ServiceLimits(), key) <= most for key, (least, most) in LIMIT_BOUNDS.items())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from([*PackageConfig.__struct_fields__, *ServiceLimits.__struct_fields__])


@given(st.dictionaries(_KEYS, _JSON | st.dictionaries(_KEYS, _JSON, max_size=4), max_size=8))
def test_any_object_is_read_or_refused(document: dict[str, object]) -> None:
    try:
        read_config(json.dumps({"name": "a", "version": "1"} | document).encode())
    except PackageError:
        pass
