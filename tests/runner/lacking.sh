#!/bin/bash
# What the doctor tells the ordinary user of a machine that lacks something: lacking.sh USER.
#
# Run as root in a runner. Each lack is made, the doctor asked, and the lack taken away again; each
# answer must be the one line that says what, and the one that says how.
set -euo pipefail
user=$1
failed=0

# su, not the log-in that is open: a new session has the groups of now.
doctor() {
  su - "$user" -c 'cd ~/labctl && LABCTL_RESULTS=~/results .venv/bin/labctl doctor --json' || true
}

# told LACK WHAT HOW: a finding that did not pass has these words on one line each.
told() {
  local answer
  answer=$(doctor)
  if python3 - "$@" "$answer" <<'CHECK'
import json, re, sys
lack, what, how, answer = sys.argv[1:]
found = [one for one in json.loads(answer) if one["verdict"] != "pass" and not one["name"].startswith("image ")]
for one in found:
    print(f"{lack}: {one['verdict']} {one['name']}: {one['observed']} | {one['remedy']}")
    assert "\n" not in one["observed"] + one["remedy"]
sys.exit(not any(re.search(what, one["observed"]) and re.search(how, one["remedy"]) for one in found))
CHECK
  then echo "$1: as it should be"
  else
    echo "$1: NOT TOLD: wanted $2 | $3"
    failed=1
  fi
}

# sysctl NAME VALUE WHAT HOW: where this kernel has the setting.
setting() {
  local file=/proc/sys/${1//.//} before
  if [ ! -e "$file" ]; then
    echo "$1: this kernel has no such setting"
    return
  fi
  before=$(<"$file")
  echo "$2" >"$file"
  told "$1=$2" "$3" "$4"
  echo "$before" >"$file"
}

gpasswd -d "$user" kvm >/dev/null
told "not in the group kvm" '/dev/kvm is for the group kvm' 'usermod -aG kvm'
usermod -aG kvm "$user"

cp -a /etc/subuid /etc/subgid /root/
sed -i "/^$user:/d" /etc/subuid /etc/subgid
told "no subordinate ids" "/etc/subuid and /etc/subgid give $user no ids" 'usermod --add-subuids'
cat /root/subuid >/etc/subuid
cat /root/subgid >/etc/subgid
rm /root/subuid /root/subgid

setting kernel.apparmor_restrict_unprivileged_userns 1 \
  'does not let labctl make namespaces' 'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0'
setting kernel.unprivileged_userns_clone 0 \
  'does not let labctl make namespaces' 'sysctl -w kernel.unprivileged_userns_clone=1'
setting user.max_user_namespaces 0 \
  'does not let labctl make namespaces' 'sysctl -w user.max_user_namespaces=10000'

# A profile that denies it, where the kernel's AppArmor knows of such (since 6.7).
if grep -qs userns_create /sys/kernel/security/apparmor/features/namespaces/mask; then
  cat >/root/no-userns <<'PROFILE'
abi <abi/4.0>,
profile no-userns /{,usr/}bin/unshare {
  allow all,
  deny userns create,
}
PROFILE
  apparmor_parser --add /root/no-userns
  told "an AppArmor profile denies it" 'does not let labctl make namespaces' 'AppArmor profile'
  apparmor_parser --remove /root/no-userns
  rm /root/no-userns
else
  echo "this kernel's AppArmor knows no userns rule"
fi

chmod 600 /dev/kvm
told "/dev/kvm is root's alone" '/dev/kvm is not yours' 'setfacl -m'
chmod 660 /dev/kvm

module=$(lsmod | sed -nE 's/^(kvm_(amd|intel)) .*/\1/p')
modprobe -r "$module"
told "no KVM in the kernel" '/dev/kvm' "modprobe $module"
modprobe "$module"
exit "$failed"
