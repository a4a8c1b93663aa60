"""The packages: setup.cfg, which has everything else, cannot add a folder to those that it finds."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["augu_api*"]), "augu_api.weights"], package_dir={"augu_api.weights": "weights"})
