"""An image seen from outside: its files, its layout, what is installed in it. Nothing of it is run."""
