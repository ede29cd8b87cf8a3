"""python -m l3d_core is l3d."""

import sys

from .cli import main

sys.exit(main())
