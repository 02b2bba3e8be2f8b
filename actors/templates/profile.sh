# The environment of the build, for login shells; others have it from the image.
export VIRTUAL_ENV=/opt/venv
case ":$PATH:" in
    *:/opt/venv/bin:*) ;;
    *) export PATH="/opt/venv/bin:$PATH" ;;
esac
