"""The settings of the server: one frozen tree, one precedence, every key known.

`load` reads the sources of this machine into `Settings`; `check_startable` refuses what this version cannot do. The two
are apart so that a file written for more than this version does can be read and explained.
"""

from insula.settings.load import load
from insula.settings.secret import Secret
from insula.settings.sections import (
    AdminSettings,
    GrantSettings,
    LimitSettings,
    LoggingSettings,
    PackageSettings,
    ServerSettings,
    SourceSettings,
    StorageSettings,
)
from insula.settings.startable import check_startable
from insula.settings.tree import Settings

__all__ = [
    "AdminSettings",
    "GrantSettings",
    "LimitSettings",
    "LoggingSettings",
    "PackageSettings",
    "Secret",
    "ServerSettings",
    "Settings",
    "SourceSettings",
    "StorageSettings",
    "check_startable",
    "load",
]
