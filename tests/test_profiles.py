"""Profiles: what is asked for, composed and written down."""

import json
from dataclasses import replace

import pytest

from llmlab.errors import UnknownNameError, UsageError
from llmlab.isolation.profile import PORT, host_config
from llmlab.profiles import PROFILES, SEALED, Mount, Profile, compose
from llmlab.specs import Limits, to_dict, value_of

LIMITS = Limits(memory_mib=512, cpus=1.5)
NO_LIMITS = Limits(memory_mib=None, cpus=None, pids=None)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_survives_being_written_down(name):
    profile = replace(PROFILES[name], mounts=(Mount(source="/a", target="/b"),))
    assert value_of(Profile, json.loads(json.dumps(to_dict(profile)))) == profile


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_as_it_is_has_no_changes(name):
    assert compose(name) == PROFILES[name]
    assert PROFILES[name].label == name


def test_a_change_is_seen_in_the_label():
    changed = compose("sealed", pids=128, read_only=False)
    assert changed.label == "sealed + writable, pids 128"


def test_a_network_lets_programs_open_sockets_for_it():
    assert compose("sealed", network="bridge").seccomp == "default"
    assert compose("sealed", network="none").seccomp == "unix"
    assert compose("none", network="bridge").seccomp == "default"


def test_without_a_bridge_no_port_is_published():
    assert not compose("video", network="none").publish
    assert not compose("none", network="host").publish


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"name": "sealde"}, "sealed"),
        ({"name": "sealed", "network": "briged"}, "bridge"),
        ({"name": "sealed", "user": "root"}, "uid:gid"),
        ({"name": "sealed", "user": "0:0:0"}, "uid:gid"),
        ({"name": "sealed", "gpus": "first"}, "device=0,1"),
        ({"name": "sealed", "pids": 64}, "96 or more"),
    ],
)
def test_bad_input_says_what_to_write(asked, error):
    with pytest.raises((UsageError, UnknownNameError)) as raised:
        compose(**asked)
    assert error in str(raised.value)


def test_limits_are_only_taken_off_by_the_profile():
    assert compose("none", memory=True).memory
    assert not compose("none").memory


def test_what_is_not_asked_for_is_not_sent():
    sent = host_config(PROFILES["none"], NO_LIMITS, [])
    assert not {"Memory", "NanoCpus", "PidsLimit", "Tmpfs", "Ulimits", "LogConfig", "CapAdd"} & set(sent)
    assert sent["SecurityOpt"] == []
    assert list(sent["PortBindings"]) == [f"{PORT}/tcp"]


def test_a_volume_is_no_path_of_the_host():
    volume = Mount(source="llmlab-model", target="/models", volume=True)
    sent = host_config(SEALED, LIMITS, [volume])
    assert sent["Mounts"] == [
        {
            "Type": "volume",
            "Source": "llmlab-model",
            "Target": "/models",
            "ReadOnly": True,
            "VolumeOptions": {"NoCopy": True},
        }
    ]
