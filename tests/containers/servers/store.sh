#!/usr/bin/env bash
# A whole Ceph Object Gateway in one container: monitor, storage daemon on a file, gateway on port 9000; objects outlive a SIGKILL.

set -euo pipefail
data=/data
conf=$data/ceph.conf

make_cluster() {
    rm -rf "${data:?}"/*
    mkdir -p $data/{mon,osd,run}
    fsid=$(cat /proc/sys/kernel/random/uuid)
    cat > $conf <<END
[global]
fsid = $fsid
mon_host = v2:127.0.0.1:3300
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# The gateway's default is an encrypted monitor connection, which does not exist without authentication.
ms_mon_client_mode = crc
ms_bind_msgr1 = false
# One storage daemon, hence one copy; no autoscaler, which would live in the absent manager.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
log_to_file = false
log_to_stderr = true
err_to_stderr = true
run_dir = $data/run
crash_dir = $data/run
admin_socket =
[mon]
mon_data = $data/mon
paxos_propose_interval = 0.02
mon_data_avail_warn = 0
mon_data_avail_crit = 0
[osd]
osd_data = $data/osd
osd_objectstore = bluestore
bluestore_block_size = 4294967296
osd_memory_target = 939524096
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_numa_auto_affinity = false
[client]
objecter_tick_interval = 0.5
objecter_timeout = 1
[client.rgw]
rgw_frontends = beast tcp_nodelay=1 endpoint=0.0.0.0:9000
rgw_data = $data/run
rgw_enable_apis = s3
rgw_thread_pool_size = 32
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
