#!/usr/bin/env bash
# A whole Ceph Object Gateway in one container: monitor, storage daemon on a file, gateway on port 9000; objects outlive a SIGKILL.

set -euo pipefail
data=/data
conf=$data/ceph.conf

make_cluster() {
    rm -rf "${data:?}"/*
    mkdir -p $data/{mon,osd,run}
    fsid=$(cat /proc/sys/kernel/random/uuid)
    cat /usr/local/share/ceph.conf - > $conf <<END
[global]
fsid = $fsid
mon_host = v2:127.0.0.1:3300
log_to_file = false
log_to_stderr = true
err_to_stderr = true
run_dir = $data/run
crash_dir = $data/run
[mon]
mon_data = $data/mon
[osd]
osd_data = $data/osd
osd_objectstore = bluestore
bluestore_block_size = 4294967296
osd_memory_target = 939524096
[client.rgw]
rgw_frontends = beast tcp_nodelay=1 endpoint=0.0.0.0:9000
rgw_data = $data/run
END
    monmaptool --create --fsid "$fsid" --set-min-mon-release 16 --addv a "[v2:127.0.0.1:3300]" $data/monmap
    ceph-mon -c $conf -i a --mkfs --monmap $data/monmap
}

[ -e $data/ready ] || make_cluster
ceph-mon -c $conf -i a -f &
if [ ! -e $data/ready ]; then
    osd=$(cat /proc/sys/kernel/random/uuid)
    ceph -c $conf osd new "$osd" 0
    ceph-osd -c $conf -i 0 --mkfs --osd-uuid "$osd"
fi
ceph-osd -c $conf -i 0 -f &
# The root user of compose.yaml, and the users for whom there are secrets; those that an older installation lacks are added.
for user in lethe trainer sampler detector mitigator operator backup; do
    secret=/run/secrets/${user}_s3
    if [ -e "$data/user-$user" ] || [ ! -e "${secret}_access_key" ]; then continue; fi
    radosgw-admin -c $conf -n client.rgw user create --uid="$user" --display-name="$user" \
        --access-key="$(cat "${secret}_access_key")" --secret-key="$(cat "${secret}_secret_key")" > /dev/null
    touch "$data/user-$user"
done
touch $data/ready
radosgw -c $conf -n client.rgw -f &
# Whichever ends first ends the container, so that its restart policy can do its work.
wait -n
