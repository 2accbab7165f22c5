#!/bin/sh
# Writes the secrets that compose.yaml mounts, once: what exists is kept.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
key() { head -c 32 /dev/urandom | base64 | tr -d '\n'; }
write() { # write NAME TEXT
  [ -e "secrets/$1" ] || printf '%s' "$2" > "secrets/$1"
}
write postgres_password "$(random)"
write penstock_database_url "postgresql://penstock:$(cat secrets/postgres_password)@postgres/penstock"
write penstock_webhook "{\"secrets\": [\"whsec_$(key)\"]}"
write penstock_dashboard "{\"basic_auth\": \"penstock:$(random)\"}"
# The container's user reads them through the mount; the folder keeps others on this host out.
chmod 644 secrets/*
chmod 700 secrets
echo "the dashboard's login: $(cat secrets/penstock_dashboard)"
