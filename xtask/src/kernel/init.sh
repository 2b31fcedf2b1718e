#!/usr/bin/busybox sh
# The first process of a virtual machine: mounts what the tests expect of a system, runs them, tells the second
# serial port how they ended, and turns the machine off.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export SNIFF_BIN=/usr/bin/sniff RUST_TEST_THREADS=2 RUST_BACKTRACE=1

mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for folder in /run /tmp /var/lib; do
    mount -t tmpfs tmpfs "$folder"
done
while read -r module; do
    insmod "$module" || echo "cannot load $module"
done < /etc/modules
/usr/bin/ip link set lo up
# An emulated processor may run into the breakpoint by which the kernel patches itself when that is over already, and the
# kernel then goes down ("Oops: int3"). It does not patch the hooks of packets as long as one is in use.
unshare --net sh -c '/usr/bin/ip link set lo up && /usr/bin/tc qdisc add dev lo clsact && exec sleep 100000' &

while read -r argument; do
    set -- "$@" "$argument"
done < /etc/arguments
/usr/bin/sniff-tests "$@"
echo "status $?" > "$STATUS"

busybox poweroff -f
