#!/bin/sh
# Installs what vchat needs from the system, on Debian and its relatives; says what is needed elsewhere.
#
#   tests/install-deps.sh [build|deb|test|demo]     default: build; the others include `build`
#
# Does nothing, and asks for no rights, when everything is there.
set -eu

# One need a line: group, Debian package, how to see that it is there (also from another source), and what for.
#   cmd:NAME  a command    pc:NAME  a library with headers    so:NAME  a library    libc  headers of C    libclang, font
needs() {
    cat <<'END'
build gcc             cmd:cc          links the programs and compiles libopus and libdav1d
build g++             cmd:c++         libaom's build asks for a C++ compiler
build libc6-dev       libc            headers of the C library
build make            cmd:make        builds libaom and libopus
build cmake           cmd:cmake       builds libaom and libopus
build perl            cmd:perl        generates parts of libaom
build nasm            cmd:nasm        assembles the fast paths of libaom, libdav1d and rav1e
build meson           cmd:meson       builds libdav1d
build ninja-build     cmd:ninja       builds libdav1d
build pkg-config      cmd:pkg-config  finds libasound
build libasound2-dev  pc:alsa         sound where no PulseAudio or PipeWire runs
build libclang-dev    libclang        reads the camera interface of the kernel (bindgen)
deb   dpkg-dev        cmd:dpkg-shlibdeps  finds the libraries that a package needs
run   libx11-6        so:libX11.so.6        the window
run   libxcursor1     so:libXcursor.so.1    the window's pointer
run   libxkbcommon0   so:libxkbcommon.so.0  the keyboard under Wayland
run   fonts-dejavu-core   font              text in the window
run   xvfb            cmd:Xvfb        a display where there is none
run   pulseaudio      cmd:pulseaudio  sound devices where there are none
run   pulseaudio-utils    cmd:parec   plays and records there
run   espeak-ng       cmd:espeak-ng   speaks where no person does, for measuring speech
END
}

has() {
    case $1 in
        cmd:*) command -v "${1#cmd:}" >/dev/null 2>&1 ;;
        pc:*) pkg-config --exists "${1#pc:}" 2>/dev/null ;;
        so:*) [ -n "$(find /lib /lib64 /usr/lib /usr/lib64 /usr/local/lib -name "${1#so:}" -print -quit 2>/dev/null)" ] ;;
        libc) [ -e /usr/include/stdio.h ] ;;
        libclang) # with its own headers, which the library alone has not
            for pattern in '*/libclang.so*' '*/libclang-[0-9]*.so*'; do
                [ -z "$(find /usr/lib /usr/lib64 /usr/local/lib -path "$pattern" -print -quit 2>/dev/null)" ] ||
                    [ -z "$(find /usr/lib /usr/lib64 /usr/local/lib -path '*/clang/*/include/stddef.h' -print -quit 2>/dev/null)" ] ||
                    return 0
            done
            return 1
            ;;
        font) [ -n "$(find /usr/share/fonts /usr/local/share/fonts -name '*.[to]tf' -print -quit 2>/dev/null)" ] ;;
    esac
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

main() {
    group=${1:-build}
    case $group in
        build) groups=' build ' ;;
        deb) groups=' build deb ' ;;
        test | demo) groups=' build run ' ;;
        *)
            echo "usage: $0 [build|deb|test|demo]" >&2
            exit 2
            ;;
    esac

    if ! command -v cargo >/dev/null 2>&1; then
        echo "Rust is missing: install it from https://rustup.rs (distributions have it too old)" >&2
        exit 1
    fi

    missing=$(needs | while read -r of package probe why; do
        case $groups in *" $of "*) ;; *) continue ;; esac
        installed "$package" || has "$probe" || echo "$of $package $why"
    done)
    [ -n "$missing" ] || return 0
    echo "Missing:" >&2
    echo "$missing" | while read -r _ package why; do printf '  %-20s %s\n' "$package" "$why" >&2; done

    packages=$(echo "$missing" | cut -d ' ' -f 2)
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "Install them with your package manager (the names are Debian's), then try again." >&2
        exit 1
    fi
    root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            echo "Neither root nor sudo: ask an administrator to run: apt-get install" $packages >&2
            exit 1
        fi
        root=sudo
    fi
    # shellcheck disable=SC2086 # the packages are words
    if ! install $packages; then
        # A desktop whose sound server rules PulseAudio out still runs the demo with its own.
        if [ "$group" = demo ] && ! echo "$missing" | grep -q '^build '; then
            echo "Going on without them." >&2
            return 0
        fi
        echo "They could not be installed: see the messages above." >&2
        exit 1
    fi
}

# Never removes anything and never asks.
install() {
    $root apt-get -qq update &&
        $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-remove --no-install-recommends install "$@" >&2
}

main "$@" </dev/null
