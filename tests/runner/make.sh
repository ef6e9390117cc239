#!/bin/sh
# Finish a runner's root file system, in it: make.sh USER. Called by image.py, which has put
# provision.sh, labctl.bundle, interfaces, key.pub and the host's own *.crt into /root.
set -eu
user=$1

# Whom the host trusts the machine trusts too: the way to the archives may lead past them.
for file in /root/*.crt; do
  [ -e "$file" ] || continue
  mv "$file" /usr/local/share/ca-certificates/
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >/etc/pip.conf
done
update-ca-certificates

git clone --quiet --branch main /root/labctl.bundle /root/labctl
sh /root/provision.sh "$user" /root/labctl

echo labctl-runner >/etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 labctl-runner\n' >/etc/hosts
mkdir -p /etc/network
mv /root/interfaces /etc/network/interfaces
# The stamps of make hold the machine's id.
systemd-machine-id-setup
echo '/dev/vda / ext4 defaults 0 1' >/etc/fstab
# They wake when they like, for minutes on an emulated CPU.
systemctl mask apt-daily.timer apt-daily-upgrade.timer

for account in root "$user"; do
  home=$(getent passwd "$account" | cut -d: -f6)
  install -d -m 700 -o "$account" -g "$account" "$home/.ssh"
  install -m 600 -o "$account" -g "$account" /root/key.pub "$home/.ssh/authorized_keys"
done

# The Python environments, which take minutes on an emulated CPU. The second one finds what the
# first has built.
make -C /root/labctl install
home=$(getent passwd "$user" | cut -d: -f6)
install -d -o "$user" -g "$user" "$home/.cache"
if [ -d /root/.cache/pip ]; then
  cp -r /root/.cache/pip "$home/.cache/pip"
  chown -R "$user:$user" "$home/.cache/pip"
fi
cp /root/labctl.bundle "$home/labctl.bundle"
chown "$user:$user" "$home/labctl.bundle"
su "$user" -s /bin/sh -c 'cd && git clone --quiet --branch main labctl.bundle labctl \
  && make -C labctl install'
rm -f /root/key.pub /root/provision.sh /root/make.sh /root/labctl.bundle "$home/labctl.bundle"
apt-get clean
# Only now: until here names are resolved as the host does.
echo 'nameserver 10.0.2.3' >/etc/resolv.conf
