"""Verbs for programs outside of a lab: ssh-config, ssh-proxy, inventory."""

from __future__ import annotations

from typing import NoReturn

import click

from labctl.cli.options import json_option, lab_option, print_json
from labctl.cli.process import become
from labctl.lab import access
from labctl.lab.lab import Lab


@click.command("ssh-config")
@lab_option
@json_option
def ssh_config(lab: str | None, as_json: bool) -> None:
    """Print an ssh_config(5) for the lab's guests.

    They are there by their names and as NODE.LAB. For OpenSSH's programs and what uses them:
    `labctl ssh-config >lab.conf; scp -F lab.conf ...`. scp, sftp and rsync need their other half in
    the guest; `labctl cp` needs none.
    """
    running = Lab.attach(lab)
    found = access.logins(running)
    if as_json:
        print_json({"lab": running.name, "nodes": [one.to_json() for one in found]})
    else:
        click.echo(access.ssh_config(found), nl=False)


@click.command("ssh-proxy")
@lab_option
@click.argument("node")
def ssh_proxy(lab: str | None, node: str) -> NoReturn:
    """Connect to NODE's SSH server, for ssh(1) to call.

    It is the ProxyCommand that `labctl ssh-config` writes, and nothing for a shell.
    """
    running = Lab.attach(lab)
    words = access.proxy_words(running, node)
    running.check_running(node)
    become(words)


@click.command("inventory")
@lab_option
def inventory(lab: str | None) -> None:
    """Print an inventory for Ansible, as JSON.

    Groups are the lab, labels as KEY_TEXT, and kinds of guests. `labctl inventory >lab.yaml;
    ansible -i lab.yaml all -m raw -a uptime`; modules need Python in the guest.
    """
    print_json(access.inventory(Lab.attach(lab)))


COMMANDS = (ssh_config, ssh_proxy, inventory)
