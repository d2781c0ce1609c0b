#!/bin/bash
# Calls with the kernel's virtual devices: a V4L2 camera (vivid), an MJPEG camera (v4l2loopback) and two sound cards
# (snd-aloop), unplugged while in use.
#
#   tests/vm/devices.sh [DIR]     as root; DIR has vchatd and vchat-client [default: target/release]
#   KEEP=DIR tests/vm/devices.sh  keeps events, pictures and sound in DIR
#   STEPS=REGEX tests/vm/devices.sh  only those steps
#
# Prints a line per step and ends with "N passed, N failed"; the exit status is 1 when a step failed. It loads and
# unloads the kernel modules named above, so run it on a machine (a virtual one) where nothing else uses them, with no
# camera of its own. Needs ffmpeg, v4l-utils, alsa-utils, pulseaudio, xvfb, xdotool and imagemagick.
set -uo pipefail

bin=$(realpath "${1:-$(dirname "$0")/../../target/release}")
for tool in ffmpeg v4l2-ctl aplay arecord pulseaudio pactl Xvfb xdotool import modprobe; do
  command -v $tool >/dev/null || { echo "devices.sh: $tool is missing" >&2; exit 2; }
done
[ -x "$bin/vchatd" ] && [ -x "$bin/vchat-client" ] || { echo "devices.sh: no vchatd and vchat-client in $bin" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "devices.sh: only root can plug and unplug devices" >&2; exit 2; }

work=$(mktemp -d)
passed=0 failed=0
# Neither a sound server nor a display of whoever runs this.
unset PULSE_SERVER DISPLAY
mkdir -p "$work/runtime"; export XDG_RUNTIME_DIR=$work/runtime HOME=$work/home

# --- tools ---------------------------------------------------------------------------------------------------------

# step NAME COMMAND...: runs the command and counts how it ends.
step() {
  local name=$1; shift
  [[ $name == "  "* || $name =~ ${STEPS:-.} ]] || return 0
  if "$@"; then passed=$((passed + 1)); echo "ok   $name"; else failed=$((failed + 1)); echo "FAIL $name"; fi
}

# await SECONDS COMMAND...: until the command succeeds. Machines without hardware virtualisation are slow.
await() {
  local left=$(($1 * 5)); shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1)); [ $left -gt 0 ] || { echo "     never: $*" >&2; return 1; }
    sleep 0.2
  done
}

# has NAME PATTERN: an event of that client matches. after NAME LINE PATTERN: one past that line.
has() { grep -Eq -- "$2" "$work/$1.json"; }
after() { tail -n +$(($2 + 1)) "$work/$1.json" | grep -Eq -- "$3"; }
lines() { wc -l < "$work/$1.json"; }
alive() { kill -0 "${pid[$1]}" 2>/dev/null; }

declare -A pid
# client NAME ARGS...: starts a client in the room; what is written to $work/NAME.in is chat.
client() {
  local name=$1; shift
  rm -rf "$work/$name".{in,json,err}; mkfifo "$work/$name.in"; : > "$work/$name.json"
  "$bin/vchat-client" --relay "$relay" --room devices --name "$name" --events json \
    --config-dir "$work/home/$name" --state-dir "$work/home/$name" "$@" \
    < "$work/$name.in" > "$work/$name.json" 2> "$work/$name.err" & pid[$name]=$!
  exec {fd}> "$work/$name.in"; chat[$name]=$fd
}
declare -A chat
say() { echo "$2" >&"${chat[$1]}"; }
# leave NAME...: ends clients in order, so that their files are complete.
leave() {
  local name
  for name in "$@"; do alive "$name" && kill -TERM "${pid[$name]}"; done
  for name in "$@"; do wait "${pid[$name]}"; left[$name]=$?; exec {chat[$name]}>&-; done
}
declare -A left
helpers=()
# end_helpers: ends players, recorders, servers that were added to the list.
end_helpers() {
  [ ${#helpers[@]} -gt 0 ] && { kill "${helpers[@]}"; wait "${helpers[@]}"; } 2>/dev/null
  helpers=(); true
}
finish() {
  leave "${!pid[@]}" 2>/dev/null; end_helpers
  [ -n "${daemon:-}" ] && kill "$daemon"
  [ -n "${KEEP:-}" ] && mkdir -p "$KEEP" && find "$work" -path "$work/relay" -prune -o -path "$work/home" -prune -o -type f -size -30M -name '*.*' -exec cp -t "$KEEP" {} +
  rm -rf "$work"
}
trap finish EXIT

# tone FILE HZ: a wav file with half a minute of it.
tone() { ffmpeg -v error -y -f lavfi -i "sine=frequency=$2:sample_rate=48000:duration=30" -af volume=8dB -ac 2 "$1"; }
# level FILE FILTER: loudness of the last seconds in dB after a filter.
level() {
  ffmpeg -v info -sseof -${SPAN:-4} -i "$1" -ac 1 -af "$2,astats=measure_perchannel=none:measure_overall=RMS_level" \
    -f null - 2>&1 | awk '/RMS level/ { print $NF; exit }'
}
# gaps FILE: how often the last seconds are silent for 30 ms and more.
gaps() { ffmpeg -v info -sseof -${SPAN:-4} -i "$1" -ac 1 -af silencedetect=n=-40dB:d=0.03 -f null - 2>&1 | grep -c silence_start; }
# sounds FILE HZ: the file ends with seconds of that tone and next to nothing else, without a gap.
sounds() {
  local all tone gaps
  all=$(level "$1" anull); tone=$(level "$1" "bandpass=f=$2:width_type=h:w=60"); gaps=$(gaps "$1")
  echo "     $(basename "$1"): ${all:-no} dB, of it ${tone:-no} dB at $2 Hz, $gaps gaps in ${SPAN:-4} s"
  awk -v all="$all" -v tone="$tone" 'BEGIN { exit !(all != "" && all > -40 && tone > all - 1.5) }' && [ "$gaps" = 0 ]
}
# bars FILE.y4m WHITE: the newest picture is the eight colour bars at 75 %, the first of them this white.
bars() {
  local frames; frames=$(($(wc -l < "${1%.y4m}.csv") - 1))
  [ $frames -gt 0 ] || { echo "     no picture"; return 1; }
  ffmpeg -v error -y -i "$1" -vf "select=gte(n\,$((frames - 1)))" -frames:v 1 "${1%.y4m}.png" || return 1
  ffmpeg -v error -i "${1%.y4m}.png" -vf "crop=iw:ih/3,scale=8:1:flags=area" -f rawvideo -pix_fmt rgb24 - | od -An -v -tu1 -w24 |
    awk -v n=$frames -v w="$2" '{
      split(w " " w " " w " 191 191 0 0 191 191 0 191 0 191 0 191 191 0 0 0 0 191 0 0 0", want, " ")
      for (i = 1; i <= 24; i++) { d = $i - want[i]; if (d < 0) d = -d; if (d > worst) worst = d }
      printf "     %d pictures, colours off by at most %d of 255\n", n, worst; exit worst > 24 }'
}

# --- devices -------------------------------------------------------------------------------------------------------

vivid=/sys/bus/platform/drivers/vivid
modprobe -r vivid v4l2loopback snd-aloop 2>/dev/null
modprobe vivid n_devs=1 node_types=0x1 input_types=0x00 &&
  modprobe v4l2loopback video_nr=42 exclusive_caps=1 card_label="Loop camera" &&
  modprobe snd-aloop enable=1,1 id=VchatA,VchatB pcm_substreams=2,2 || exit 2
udevadm settle
camera=$(grep -l vivid /sys/class/video4linux/video*/name | head -1 | tr -dc '0-9\n' | sed 's/^4//')
v4l2-ctl -d "$camera" -c osd_text_mode=2 || exit 2
tone "$work/440.wav" 440; tone "$work/660.wav" 660

"$bin/vchatd" --listen 127.0.0.1:0 --state-dir "$work/relay" > "$work/relay.out" 2> "$work/relay.err" & daemon=$!
await 20 grep -q 'listening on' "$work/relay.out" || exit 2
relay=$(sed -n 's/^listening on //p' "$work/relay.out")
small=(--size 320x180 --fps 10)

# --- the steps -----------------------------------------------------------------------------------------------------

"$bin/vchat-client" devices | tee "$work/devices.txt"
listed() {
  "$bin/vchat-client" devices --json > "$work/devices.json"
  grep -q "^  $camera  vivid" "$work/devices.txt" && grep -q '"name":"vivid' "$work/devices.json" &&
    [ "$(grep -c 'plughw:CARD=VchatA,DEV=1' "$work/devices.txt")" = 2 ] && [ "$(grep -c '\[default\]' "$work/devices.txt")" = 2 ] &&
    ! grep -Eq '^  (null|speex|hw:)' "$work/devices.txt"
}
step "cameras and cards are listed, each once" listed

# camera_call CAMERA NAME [WHITE]: ann sends, bob writes pictures.
camera_call() {
  rm -rf "$work/seen"
  client bob --camera none --mic none --display "y4m:$work/seen" --speaker none
  await 30 has bob '"joined"' || return 1
  client ann --camera "$1" "${small[@]}" --mic none --display none --speaker none
  await 60 has bob '"first-frame"' && sleep 3
  leave ann bob
  [ "${left[ann]} ${left[bob]}" = "0 0" ] && bars "$work/seen/ann.y4m" "${3:-191}" && cp "$work/seen/ann.png" "$work/camera-$2.png"
}
step "camera auto: the other side sees the test pattern" camera_call auto auto
step "camera by number" camera_call "$camera" number
step "camera by part of its name" camera_call vivid-000 name

ffmpeg -v error -re -f lavfi -i pal75bars=s=320x180:r=10 -c:v mjpeg -q:v 3 -pix_fmt yuvj422p -f nut - 2>/dev/null |
  ffmpeg -v error -f nut -i - -c:v copy -f v4l2 /dev/video42 2> "$work/mjpeg.err" & helpers+=($!)
await 30 bash -c "'$bin/vchat-client' devices | grep -q '42  Loop camera (MJPEG)'"
step "MJPEG camera" camera_call 42 mjpeg 255
end_helpers

# An unplugged camera: ann has a window, so that the key V can switch the camera on again.
unplugged() {
  local seen pictures
  rm -rf "$work/seen" "$work/heard"
  Xvfb :77 -screen 0 900x600x24 -nolisten tcp 2> "$work/xvfb.err" & helpers+=($!)
  await 30 test -S /tmp/.X11-unix/X77 || return 1
  client bob --camera none --mic "file:$work/660.wav" --display "y4m:$work/seen" --speaker "wav:$work/heard"
  await 30 has bob '"joined"' || return 1
  DISPLAY=:77 client ann --camera "$camera" "${small[@]}" --mic "file:$work/440.wav" --speaker none
  await 60 has bob '"first-frame"' || return 1
  await 20 xdotool_ search --name vchat || return 1
  sleep 3; DISPLAY=:77 import -window root "$work/window-camera.png"
  seen=$(lines bob)
  echo vivid.0 > $vivid/unbind
  step "  an event says that the camera is gone" await 20 has ann '"code":"camera"'
  step "  the other side is told that the camera is off" await 20 after bob "$seen" '"camera_off":true'
  say ann "still here"; say bob "me too"
  step "  chat passes in both directions" await 20 eval "has bob 'still here' && has ann 'me too'"
  sleep 2; pictures=$(pictures); sleep 4
  step "  no picture comes any more" [ "$(pictures)" = "$pictures" ]
  step "  the program runs on" alive ann
  DISPLAY=:77 import -window root "$work/window-unplugged.png"
  echo vivid.0 > $vivid/bind; udevadm settle; v4l2-ctl -d "$camera" -c osd_text_mode=2
  seen=$(lines bob)
  xdotool_ search --name vchat windowfocus --sync key v
  step "  the key V switches the camera on again" await 30 after bob "$seen" '"camera_off":false'
  step "  and pictures come again" await 30 eval "[ \$(pictures) -gt $((pictures + 5)) ]"
  DISPLAY=:77 import -window root "$work/window-replugged.png"
  leave ann bob; end_helpers
  step "  the pictures are right" bars "$work/seen/ann.y4m" 191
  step "  the sound went on all the time" sounds_all "$work/heard/ann.wav" 440
  [ "${left[ann]} ${left[bob]}" = "0 0" ]
}
# How many pictures bob has shown, from his latest statistics.
pictures() { grep -o '"frames":[0-9]*' "$work/bob.json" | tail -1 | cut -d: -f2; }
xdotool_() { DISPLAY=:77 xdotool "$@"; }
# As sounds, for the ten seconds around the unplugging.
sounds_all() { SPAN=10 sounds "$@"; }
step "camera unplugged and plugged in again" unplugged

# A second program on the same camera.
busy() {
  client ann --camera "$camera" "${small[@]}" --mic none --display none --speaker none
  await 30 has ann '"joined"' && sleep 2
  client bob --camera "$camera" "${small[@]}" --mic none --display none --speaker none
  await 30 eval '! alive bob'; wait "${pid[bob]}"; left[bob]=$?
  sed 's/^/     /' "$work/bob.err"
  step "  exit code 5 and one line" [ "${left[bob]} $(wc -l < "$work/bob.err")" = "5 1" ]
  client bob --camera auto "${small[@]}" --mic none --display none --speaker none
  step "  auto goes on without" await 30 has bob '"joined"'
  sleep 2; step "  and stays" alive bob
  leave ann bob; [ "${left[ann]} ${left[bob]}" = "0 0" ]
}
step "camera in use by another program" busy

# Two cards: what goes in at the far side (device 0) of one comes out at the far side of the other.
# cards FAR_A FAR_B: the devices at the far sides.
cards() {
  aplay -q -D "$1" "$work/440.wav" & helpers+=($!)
  aplay -q -D "$2" "$work/660.wav" & helpers+=($!)
  sleep 4
  arecord -q -D "$1" -f S16_LE -r 48000 -c 2 -d 8 "$work/out-ann.wav" & local a=$!
  arecord -q -D "$2" -f S16_LE -r 48000 -c 2 -d 8 "$work/out-bob.wav" & local b=$!
  wait $a $b
  end_helpers
  step "  the tone of ann's card comes out of bob's" sounds "$work/out-bob.wav" 440
  step "  the tone of bob's card comes out of ann's" sounds "$work/out-ann.wav" 660
}
alsa() {
  client ann --camera none --display none --mic plughw:CARD=VchatA,DEV=1 --speaker plughw:CARD=VchatA,DEV=1
  ALSA_CARD=VchatB client bob --camera none --display none --mic auto --speaker auto
  await 30 has ann '"peer-joined"' && await 30 has bob '"peer-joined"' || return 1
  sleep 1; sed 's/^/     /' "$work"/{ann,bob}.err
  cards plughw:CARD=VchatA,DEV=0 plughw:CARD=VchatB,DEV=1
  local seen; seen=$(lines bob)
  # The kernel takes the card away when nobody has it open any more.
  echo snd_aloop.0 > /sys/bus/platform/drivers/snd_aloop/unbind & local unbind=$!
  step "  card unplugged: an event says so" await 30 has ann '"code":"sound".*microphone'
  step "  for the speaker too" await 30 has ann '"code":"sound".*speaker'
  step "  the other side is told that ann is muted" await 30 after bob "$seen" '"muted":true'
  say ann "deaf and mute"; step "  chat passes" await 20 has bob 'deaf and mute'
  step "  the program runs on" alive ann
  step "  and has let go of the card" await 20 eval "! kill -0 $unbind"
  leave ann bob
  echo snd_aloop.0 > /sys/bus/platform/drivers/snd_aloop/bind; udevadm settle
  [ "${left[ann]} ${left[bob]}" = "0 0" ]
}
step "sound cards without a sound server" alsa

pulse() {
  pulseaudio -n --exit-idle-time=-1 --realtime=no -L module-native-protocol-unix \
    -L "module-alsa-sink device=plughw:CARD=VchatA,DEV=1 sink_name=card rate=48000" \
    -L "module-alsa-source device=plughw:CARD=VchatA,DEV=1 source_name=mic rate=48000" 2> "$work/pulse.err" & local server=$!
  await 30 pactl info || return 1
  pactl set-default-source mic; pactl set-default-sink card
  "$bin/vchat-client" devices | grep -v '^ *[0-9]'
  client ann --camera none --display none --mic auto --speaker auto
  client bob --camera none --display none --mic "file:$work/660.wav" --speaker "wav:$work/heard"
  await 30 has ann '"peer-joined"' || return 1
  step "  the server has both streams" eval 'pactl list short sink-inputs | grep -q . && pactl list short source-outputs | grep -q .'
  aplay -q -D plughw:CARD=VchatA,DEV=0 "$work/440.wav" & helpers+=($!)
  sleep 4
  arecord -q -D plughw:CARD=VchatA,DEV=0 -f S16_LE -r 48000 -c 2 -d 8 "$work/out-ann.wav"
  leave bob; end_helpers
  step "  the tone of the card is heard" sounds "$work/heard/ann.wav" 440
  step "  what is sent comes out of the card" sounds "$work/out-ann.wav" 660
  client bob --camera none --display none --mic none --speaker none
  await 30 has bob '"peer-joined"' || return 1
  local seen; seen=$(lines bob)
  kill -KILL $server; wait $server 2>/dev/null
  step "  server killed: an event says so" await 30 has ann '"code":"sound".*microphone'
  step "  for the speaker too" await 30 has ann '"code":"sound".*speaker'
  step "  the other side is told that ann is muted" await 30 after bob "$seen" '"muted":true'
  say ann "deaf and mute"; step "  chat passes" await 20 has bob 'deaf and mute'
  leave ann bob; [ "${left[ann]} ${left[bob]}" = "0 0" ]
}
step "sound cards under PulseAudio" pulse

echo "$passed passed, $failed failed"
[ $failed = 0 ]
