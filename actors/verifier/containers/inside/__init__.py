"""Scripts that are mounted read-only into a verification container and run by the image's Python.

They are the only code of Headrace that runs next to the code under test. They use the standard library alone, but for
the reporter, which is a plug-in of pytest, and nothing newer than Python 3.8; they import nothing of Headrace, and
whatever they write is judged outside.
"""
