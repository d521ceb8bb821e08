# Sourced by run.sh, test.sh and .ci/run, in the repository's root: makes .venv and installs the project.
# setup EXTRAS: "" or "dev". A stamp of what was installed makes the next call a no-op; it is written last,
# so a set-up that was interrupted is simply done again. PYTHON=/path/to/python chooses the interpreter.
# Every file that is installed is checked against its sha256 in requirements/, which tools/lock.py writes.
# pip's own settings hold: where PyPI's torch is the one with CUDA and that is not wanted, point
# PIP_EXTRA_INDEX_URL at PyTorch's index of CPU wheels and it will be preferred as 2.13.0+cpu. Any other build
# of torch 2.13.0 is kept if it is in .venv before: see docs/supply-chain.md.

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 to 3.14 with venv found${PYTHON:+ (tried PYTHON=$PYTHON)}." \
        "Install one (on Debian and Ubuntu: apt install python3 python3-venv), then run this again." >&2
    return 1
}

# install_locked NAME [PIP ARGUMENTS]: what requirements/NAME.txt lists; a file with another hash is refused.
install_locked() {
    .venv/bin/python -m pip install --quiet --no-deps -r "requirements/$1.txt" "${@:2}" && return
    echo "error: requirements/$1.txt could not be installed. If pip speaks of hashes that do not match, a file is not" \
        "the one that was released: see docs/supply-chain.md" >&2
    return 1
}

# install_torch: torch as pip chooses it, so that an index or a folder with CPU builds is preferred, then checked.
# (Given the hashes at once, pip prefers what the index lists with one of them: on Linux PyPI's build with CUDA.)
install_torch() {
    local pin installed
    pin="$(grep -o '^torch==[^ ]*' requirements/torch.txt)"
    installed="$(.venv/bin/python -m pip show torch 2>/dev/null | sed -n 's/^Version: //p')"
    [ "torch==${installed%%+*}" != "$pin" ] || return 0
    rm -rf .venv/downloads &&
        .venv/bin/python -m pip download --quiet --no-deps --only-binary :all: --dest .venv/downloads "$pin" &&
        install_locked torch --no-index --find-links .venv/downloads && rm -r .venv/downloads
}

setup() {
    local extras="$1" stamp python mark unmet
    stamp="$(pwd) $(cat pyproject.toml requirements/*.txt tools/setup.sh | cksum)"
    for mark in .venv/.installed-dev ".venv/.installed-${extras:-run}"; do
        if [ -x .venv/bin/python ] && [ "$(cat "$mark" 2>/dev/null)" = "$stamp" ]; then
            return
        fi
    done
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python="$(find_python)" || return
        echo "setting up .venv with $("$python" --version) (once, a few minutes)"
        "$python" -m venv --clear .venv || return
    fi
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    echo "installing torch" && install_torch &&
        echo "installing specularip and what it needs" && install_locked "${extras:-run}" || return
    # torch's builds with CUDA need libraries that its CPU builds do not.
    unmet="$(.venv/bin/python -m pip check)" || true
    if grep -q "^torch .* not installed" <<<"$unmet"; then
        echo "installing the CUDA libraries of torch" && install_locked cuda || return
    fi
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e . &&
        echo "$stamp" >".venv/.installed-${extras:-run}"
}
