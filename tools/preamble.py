"""Runs inside sellapi.pyz before anything else: says in words that this Python cannot run it.

Written for any Python 3, old ones too: no annotations, no f-strings. `BUILT_FOR` is filled in by
tools/zipapp.py with the Python version and the platform of the build.
"""

import sys
import sysconfig

BUILT_FOR = ("@VERSION@", "@PLATFORM@")

here = ("%d.%d" % sys.version_info[:2], sysconfig.get_platform())
if here != BUILT_FOR:
    sys.stderr.write(
        "This sellapi.pyz was built for Python %s on %s; here is Python %s on %s.\n"
        "Start it as ./sellapi.pyz (or python%s sellapi.pyz) where that Python is installed,\n"
        "or build one for this machine: make zipapp\n" % (BUILT_FOR + here + BUILT_FOR[:1])
    )
    sys.exit(1)
