"""Everything is in setup.cfg, except that PyPI shows the README with links to the files of the repository."""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/egup-trainer/egup_trainer"

readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
readme = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{REPOSITORY}/raw/main/", readme)
setup(long_description=re.sub(r"(\]\()(?!https?:)", rf"\1{REPOSITORY}/blob/main/", readme))
