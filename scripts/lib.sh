# Sourced by the scripts beside it: finds a Python, makes the virtual environment, installs what pyproject.toml names.
#
# SIDESTEP_PYTHON     the interpreter to use (default: the newest python >= 3.12 that runs)
# SIDESTEP_VENV       the environment's folder (default: .venv in the source tree)
# SIDESTEP_MITMPROXY  a version constraint for mitmproxy, such as ==12.1.1 (default: what pyproject.toml says)

set -euo pipefail

SIDESTEP_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SIDESTEP_VENV="${SIDESTEP_VENV:-$SIDESTEP_ROOT/.venv}"

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

# ensure_venv EXTRA: the environment exists and holds the project with this extra, as pyproject.toml has it now.
ensure_venv() {
    local extra="$1" python stamp wanted
    stamp="$SIDESTEP_VENV/.sidestep-$extra"
    if [ ! -x "$SIDESTEP_VENV/bin/python" ]; then
        python="$(find_python)"
        echo "making $SIDESTEP_VENV with $python" >&2
        "$python" -m venv "$SIDESTEP_VENV"
    fi
    wanted="$(cat "$SIDESTEP_ROOT/pyproject.toml" - <<<"${SIDESTEP_MITMPROXY:-}" | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
        return
    fi
    local -a packages=(-e "$SIDESTEP_ROOT[$extra]")
    if [ -n "${SIDESTEP_MITMPROXY:-}" ]; then
        packages+=("mitmproxy$SIDESTEP_MITMPROXY")
    fi
    echo "installing sidestep[$extra] into $SIDESTEP_VENV" >&2
    # The pip that older Pythons bring needs minutes to find versions that fit together; uv needs seconds.
    if "$SIDESTEP_VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv; then
        "$SIDESTEP_VENV/bin/python" -m uv pip install --quiet --compile-bytecode --python "$SIDESTEP_VENV/bin/python" "${packages[@]}"
    else
        "$SIDESTEP_VENV/bin/python" -m pip install --quiet --upgrade pip
        "$SIDESTEP_VENV/bin/python" -m pip install --quiet "${packages[@]}"
    fi
    printf '%s' "$wanted" >"$stamp"
}
