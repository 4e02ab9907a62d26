# Sourced by the scripts beside it: finds a Python, makes the virtual environment, installs what pyproject.toml names.
#
# SIDESTEP_PYTHON    the interpreter to use (default: the newest python >= 3.12 that runs)
# SIDESTEP_VENV      the environment's folder (default: .venv in the source tree)
# SIDESTEP_NEWEST=1  the newest packages that pyproject.toml allows, not those of scripts/constraints.txt
# SIDESTEP_LOWEST=1  the lowest versions that pyproject.toml names

set -euo pipefail

# Compiled each time anew, the sources cost each test process a second and the quick suite a fifth of its time.
unset PYTHONDONTWRITEBYTECODE

SIDESTEP_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SIDESTEP_VENV="${SIDESTEP_VENV:-$SIDESTEP_ROOT/.venv}"
CONSTRAINTS="$SIDESTEP_ROOT/scripts/constraints.txt"

if [ -n "${SIDESTEP_NEWEST:-}" ]; then
    SIDESTEP_VERSIONS=newest
elif [ -n "${SIDESTEP_LOWEST:-}" ]; then
    SIDESTEP_VERSIONS=lowest
else
    SIDESTEP_VERSIONS=pinned
fi

find_python() {
    local candidate
    # A version manager's shim may be on PATH for a version that is not there: only running it tells.
    for candidate in ${SIDESTEP_PYTHON:-python3.13 python3.12 python3.14 python3 python "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    echo "expected Python 3.12 or newer with the venv module, found none; set SIDESTEP_PYTHON to one" >&2
    return 1
}

# On a terminal pip and uv show what they are at.
quiet=--quiet
if [ -t 2 ]; then
    quiet=
fi

# The pip that older Pythons bring needs minutes to find versions that fit together; uv needs seconds.
install_with_uv() {
    local python="$SIDESTEP_VENV/bin/python"
    "$python" -m pip install $quiet --disable-pip-version-check -c "$CONSTRAINTS" uv &&
        "$python" -m uv pip install $quiet --compile-bytecode --python "$python" "$@"
}

install_with_pip() {
    local python="$SIDESTEP_VENV/bin/python"
    if [ "$SIDESTEP_VERSIONS" = lowest ]; then
        echo "the lowest versions can be chosen by uv only" >&2
        return 1
    fi
    # Dependency groups came with pip 25.1.
    "$python" -m pip install $quiet --disable-pip-version-check --upgrade 'pip>=25.1' &&
        "$python" -m pip install $quiet --disable-pip-version-check "$@"
}

# ensure_venv GROUP: the environment exists and holds the project with this dependency group, as pyproject.toml and
# the constraints have it now.
ensure_venv() {
    local group="$1" python stamp wanted
    stamp="$SIDESTEP_VENV/.sidestep-$group"
    if [ ! -x "$SIDESTEP_VENV/bin/python" ]; then
        python="$(find_python)"
        echo "making $SIDESTEP_VENV with $python" >&2
        "$python" -m venv "$SIDESTEP_VENV"
    fi
    wanted="$(cat "$SIDESTEP_ROOT/pyproject.toml" "$CONSTRAINTS" - <<<"$SIDESTEP_VERSIONS" | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
        return
    fi
    local -a packages=(-e "$SIDESTEP_ROOT" --group "$SIDESTEP_ROOT/pyproject.toml:$group")
    case "$SIDESTEP_VERSIONS" in
        pinned) packages+=(-c "$CONSTRAINTS") ;;
        newest) packages+=(--upgrade) ;;
        lowest) packages+=(--resolution lowest-direct) ;;
    esac
    echo "installing sidestep and its group '$group' into $SIDESTEP_VENV ($SIDESTEP_VERSIONS versions)" >&2
    if ! install_with_uv "${packages[@]}"; then
        echo "uv could not install it; trying pip" >&2
        install_with_pip "${packages[@]}"
    fi
    printf '%s' "$wanted" >"$stamp"
}
