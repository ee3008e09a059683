#!/usr/bin/env bash
# Prints the secrets that the cpu-demo overlay refers to, with fresh random values, and the authority to be trusted: overlays/cpu-demo/secrets.sh | kubectl create -f -
# Run it once: what it makes is printed nowhere else, and a second run would make other passwords than the database already has.
# The API keys of mitigator and Prometheus are made afterwards, by 'lethe key create' (docs/install-kubernetes.md).

set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

secret() { # NAME KEY=FILE…
    local name=$1 files=()
    shift
    for file in "$@"; do files+=(--from-file="$file"); done
    kubectl create secret generic "$name" --namespace lethe --dry-run=client --output yaml "${files[@]}"
    echo ---
}

random_text() { openssl rand -hex 20 | tr -d '\n'; } # 40 characters, the longest key that such stores make themselves

random_text >password
secret demo-database password
printf 'postgresql://lethe:%s@database:5432/lethe' "$(<password)" >lethe_database_url
secret lethe-database-owner lethe_database_url
# The services' role is made by the job migrate, by this URL; the store's users by the job bootstrap.
printf 'postgresql://lethe_service:%s@database:5432/lethe' "$(random_text)" >lethe_database_url
secret lethe-database lethe_database_url
for user in admin trainer sampler detector mitigator operator backup; do
    printf 'lethe-%s' "$user" >lethe_s3_access_key
    random_text >lethe_s3_secret_key
    secret "lethe-store-$user" lethe_s3_access_key lethe_s3_secret_key
done

keys=()
for key in api-keys audit-log idempotency page-tokens prompt-marks pseudonyms; do
    openssl rand 32 >"$key.key"
    keys+=("$key.key")
done
secret lethe-keys "${keys[@]}"

names='DNS:trainer,DNS:sampler,DNS:detector,DNS:mitigator,DNS:object-store'
for service in trainer sampler detector mitigator; do names+=",DNS:$service.lethe.svc"; done
elliptic=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365)
openssl req -x509 "${elliptic[@]}" -keyout ca.key -out ca.crt -subj '/CN=lethe-demo-authority' \
    -addext 'keyUsage=critical,keyCertSign,cRLSign' 2>/dev/null
openssl req -x509 "${elliptic[@]}" -keyout tls.key -out tls.crt -subj '/CN=lethe-demo' -CA ca.crt -CAkey ca.key \
    -addext 'basicConstraints=critical,CA:FALSE' -addext 'extendedKeyUsage=serverAuth' -addext "subjectAltName=$names" 2>/dev/null
secret lethe-tls ca.crt tls.crt tls.key
kubectl create configmap lethe-trust --namespace lethe --dry-run=client --output yaml --from-file=ca.crt
