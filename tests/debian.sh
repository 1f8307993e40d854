# For the scripts that build with other compilers or for other machines (arm64/run.sh, c/run.sh), which source it.
#
#     need_packages COMMAND=PACKAGES ...    installs what has the commands that are missing: as root, and on Debian
need_packages() {
    local pair missing=()
    for pair in "$@"; do
        # shellcheck disable=SC2206 # several packages are several words
        command -v "${pair%%=*}" >/dev/null || missing+=(${pair#*=})
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        echo "missing: ${missing[*]}; needed: these packages of Debian, or root, as whom this installs them" >&2
        return 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
