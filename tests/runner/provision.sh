#!/bin/sh
# Make a Debian machine like the users': provision.sh USER CHECKOUT
#
# Run as root, in a new machine (the Vagrantfile) or in a root file system that is being made
# (tests/runner/image.py). It installs what labctl's packages list names and sets up what a stock
# Debian of its users has and a bare test host has not. Run twice it changes nothing.
set -eu

user=$1
checkout=$2

export DEBIAN_FRONTEND=noninteractive
# What is installed, and what it provides: libarchive13 is libarchive13t64 from Debian 13 on.
have=$(dpkg-query -W -f '${db:Status-Status}|${Package}, ${Provides}\n' \
  | sed -nE 's/^installed\|//p' | tr ',' '\n' | sed -E 's/ *\(.*//; s/ //g')
missing() { # the words that are no installed package
  for name in "$@"; do
    printf '%s\n' "$have" | grep -qxF "$name" || echo "$name"
  done
}
wanted=$(sed -E 's/#.*//' "$checkout/labctl/system-packages.txt")
# shellcheck disable=SC2046,SC2086 # words are wanted
set -- $(missing apparmor ca-certificates git make nftables sudo $wanted)
if [ $# -gt 0 ]; then
  apt-get update -q
  apt-get install -q -y --no-install-recommends "$@" </dev/null
fi

# An ordinary user; useradd gives subordinate ids. The group kvm is udev's, which QEMU's package
# makes where udev has not.
getent group kvm >/dev/null || groupadd --system kvm
id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
usermod -aG kvm "$user"

# Bridged packets pass the firewall where this is loaded, as it is where Docker has been.
echo br_netfilter >/etc/modules-load.d/labctl-runner.conf
# Huge pages are there, so whoever may use them tries to.
echo 'vm.nr_hugepages = 8' >/etc/sysctl.d/90-labctl-runner.conf

# A firewall that is on: it lets in SSH and what was asked for, and forwards nothing.
cat >/etc/nftables.conf <<'RULES'
#!/usr/sbin/nft -f
flush ruleset

table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iif lo accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport 22 accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
	chain output {
		type filter hook output priority filter; policy accept;
	}
}
RULES
systemctl enable nftables.service

# In a running machine it counts at once; a root file system is booted first.
if [ -d /run/systemd/system ]; then
  systemctl restart nftables.service systemd-modules-load.service
  sysctl -q -p /etc/sysctl.d/90-labctl-runner.conf
fi
