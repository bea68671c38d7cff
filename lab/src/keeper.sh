# Makes this process's mount and UTS namespaces those of host $1, whose folder is $2, says so, and keeps them.
set -e
hostname "$1"
# Copies of other labs' namespaces would keep those alive.
umount -R -l /run/netns 2>/dev/null || true
# /sys of this network namespace, with the cgroups of the machine.
mkdir -p "$2/cgroup"
mount --rbind /sys/fs/cgroup "$2/cgroup"
mount -t sysfs sysfs /sys
mount --move "$2/cgroup" /sys/fs/cgroup
while [ $# -gt 2 ]; do
    mount --bind "$2/$3" "$4"
    host=$1 folder=$2
    shift 4
    set -- "$host" "$folder" "$@"
done
# libvirt locks serial consoles in /var/lock, which is a link to the second.
mkdir -p /run/hugepages /run/lock
mount -t hugetlbfs -o pagesize=2M hugetlbfs /run/hugepages
echo ready
exec sleep infinity >/dev/null
