"""`python -m inception_jax` is the console script `inception-jax`."""

import sys

from inception_jax.cli import main

sys.exit(main())
