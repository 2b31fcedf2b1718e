#!/usr/bin/env bash
# Makes docs/wireshark.png anew: runs the demo, and takes a picture of Wireshark with what it captured.
#
# Takes what `cargo xtask run` takes, and the packages wireshark, xvfb, xdotool, imagemagick and pngquant.
set -euo pipefail
cd "$(dirname "$0")/.."

width=1280 height=760
folder=$(mktemp -d)
started=()
cleanup() {
    [ ${#started[@]} = 0 ] || kill "${started[@]}" 2> /dev/null || true
    wait
    rm -r "$folder"
}
trap cleanup EXIT

cargo xtask run > /dev/null

# A display that no other server has: it says on descriptor 3 which.
mkfifo "$folder/display"
exec 3<> "$folder/display"
Xvfb -displayfd 3 -screen 0 "${width}x${height}x24" -nolisten tcp 2> "$folder/xvfb" &
started+=($!)
read -r -t 20 -u 3 number
export DISPLAY=:$number

# Settings of its own: what Wireshark looks like does not depend on whose machine it is.
export HOME=$folder XDG_CONFIG_HOME=$folder XDG_RUNTIME_DIR=$folder QT_QPA_PLATFORM=xcb LC_ALL=C.UTF-8
interface=%Cus:frame.interface_name:0:R direction=%Cus:frame.packet_flags_direction:0:R
mkdir "$folder/wireshark"
echo 'privs.warn_if_elevated: FALSE' > "$folder/wireshark/recent_common"
cat > "$folder/wireshark/recent" << END
gui.byte_view_show: FALSE
column.width: %m, 50, %t, 100, ${interface%%:0:R}, 130, ${direction%%:0:R}, 80, %s, 125, %d, 125, %p, 80, %L, 60, %i, 470
END
columns='"No.", "%m", "Time", "%t", "Interface", "'$interface'", "Direction", "'$direction'"'
columns+=', "Source", "%s", "Destination", "%d", "Protocol", "%p", "Length", "%L", "Info", "%i"'
wireshark -o "gui.column.format:$columns" -r demo.pcapng -J http.request 2> "$folder/messages" &
started+=($!)

window=$(timeout 60 xdotool search --sync --onlyvisible --name 'demo\.pcapng' 2> /dev/null | head -n 1)
xdotool windowmove "$window" 0 0 windowsize "$window" "$width" "$height"
sleep 3
# There is no window manager to give it the keyboard. The keys expand all details of the packet.
xdotool windowfocus --sync "$window" mousemove $((width - 1)) $((height - 1)) key ctrl+Right
sleep 3
import -window root "$folder/window.png"
pngquant --force --strip --output docs/wireshark.png 64 "$folder/window.png"
