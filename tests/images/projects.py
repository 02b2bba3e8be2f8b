"""Small projects to build: pure Python with a version from its tags, a C extension, and one that does not compile."""

SCM_PROJECT = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools>=64", "setuptools_scm>=8"]
build-backend = "setuptools.build_meta"

[project]
name = "tagged"
dynamic = ["version"]

[tool.setuptools]
packages = ["tagged"]

[tool.setuptools_scm]
""",
    "tagged/__init__.py": "def answer():\n    return 42\n",
    "tests/test_tagged.py": "import tagged\n\n\ndef test_answer():\n    assert tagged.answer() == 42\n",
    ".gitignore": "*.egg-info/\nbuild/\n*.so\n__pycache__/\n",
}
SCM_REQUIREMENTS = ("setuptools==75.8.0", "setuptools_scm==8.1.0", "packaging==24.2", "pytest==8.3.4")

EXTENSION_PROJECT = {
    "setup.py": """\
from setuptools import Extension, setup

setup(name="native", version="1.0", packages=["native"], ext_modules=[Extension("native._core", ["native/core.c"])])
""",
    "native/__init__.py": "from native._core import answer\n",
    "native/core.c": """\
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, "42"}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core", NULL, -1, methods};
PyMODINIT_FUNC PyInit__core(void) { return PyModule_Create(&module); }
""",
    ".gitignore": "*.egg-info/\nbuild/\n*.so\n__pycache__/\n",
}

BROKEN_EXTENSION_PROJECT = EXTENSION_PROJECT | {
    "native/core.c": EXTENSION_PROJECT["native/core.c"].replace("METH_NOARGS", "METH_OF_NO_PYTHON"),
}
