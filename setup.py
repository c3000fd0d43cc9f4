"""Lists the packages of the distribution; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

BENCH = "transport.bench"

setup(
    packages=[
        *find_packages(include=["transport", "transport.*"]),
        BENCH,
        *(f"{BENCH}.{name}" for name in find_packages("bench")),
    ],
    package_dir={BENCH: "bench"},
)
