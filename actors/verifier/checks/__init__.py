"""The checks of an image's files and of a context's text, a module for each defence and what several need."""
