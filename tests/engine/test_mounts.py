"""Reading of binds, mounts, tmpfs and volumes-from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.mounts import (
    ContainerMount,
    from_host_config,
    from_request,
    from_tmpfs,
    from_volumes,
    inherit,
    parse_bind,
    parse_volumes_from,
    to_spec,
)
from sampan.engine.types import (
    BindOptions,
    HostConfig,
    MountRequest,
    TmpfsOptions,
    VolumeOptions,
)
from sampan.errors import InvalidParameter


def test_bind_of_a_path() -> None:
    mount = parse_bind("/a/b/:/c:ro,rslave")
    assert (mount.point.type, mount.point.source, mount.destination) == ("bind", "/a/b", "/c")
    assert not mount.point.rw
    assert mount.options == ("rbind", "rslave", "ro", "rro")
    assert mount.create and not mount.copy


def test_named_volume() -> None:
    mount = parse_bind("data:/var/lib//x/")
    assert (mount.point.type, mount.point.name, mount.destination) == (
        "volume",
        "data",
        "/var/lib/x",
    )
    assert mount.point.mode == "z" and mount.point.rw and mount.copy and not mount.anonymous
    assert not parse_bind("data:/x:nocopy").copy


def test_destination_alone_is_an_anonymous_volume() -> None:
    mount = parse_bind("/data")
    assert mount.anonymous and mount.destination == "/data" and mount.point.type == "volume"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid volume specification: ''"),
        (":/x", "invalid volume specification"),
        ("/a:/b:ro:x", "invalid volume specification"),
        ("/a:ro", "invalid volume specification"),
        ("/a:/b:nope", "invalid mode: nope"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:/b:nocopy", "invalid mode: nocopy"),
        ("v1:/b:rslave", "invalid mode: rslave"),
        ("/a:b", "mount path must be absolute"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/b/..", "destination can't be '/'"),
        ("./a:/b", "includes invalid characters for a local volume name"),
        ("v:/b", "volume name is too short"),
        ("data", "mount path must be absolute"),
    ],
)
def test_bad_binds(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_bind(text)
    assert message in str(caught.value)


@given(st.text(max_size=30))
def test_any_bind_is_read_or_refused(text: str) -> None:
    try:
        mount = parse_bind(text)
    except InvalidParameter:
        return
    assert mount.destination.startswith("/") and mount.destination != "/"
    assert ".." not in mount.destination.split("/")


def test_mount_requests() -> None:
    bind = from_request(
        MountRequest(
            type="bind",
            source="/a",
            target="/b",
            read_only=True,
            bind_options=BindOptions(propagation="rshared", non_recursive=True),
        )
    )
    assert bind.options == ("bind", "rshared", "ro") and not bind.create
    volume = from_request(
        MountRequest(
            type="volume",
            source="data",
            target="/b",
            volume_options=VolumeOptions(no_copy=True, subpath="x/y", labels={"a": "b"}),
        )
    )
    assert volume.subpath == "x/y" and not volume.copy and volume.labels == {"a": "b"}
    tmpfs = from_request(
        MountRequest(
            type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=1024, mode=0o1777)
        )
    )
    assert {"size=1024", "mode=1777"} <= set(tmpfs.options)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (MountRequest(type="what", target="/x"), "mount type unknown"),
        (MountRequest(type="bind", target="/x"), "field Source must not be empty"),
        (MountRequest(type="bind", source="/a"), "field Target must not be empty"),
        (MountRequest(type="bind", source="a", target="/x"), "mount path must be absolute"),
        (MountRequest(type="tmpfs", source="/a", target="/x"), "Source must not be specified"),
        (
            MountRequest(type="bind", source="/a", target="/x", volume_options=VolumeOptions()),
            "field VolumeOptions must not be specified",
        ),
        (
            MountRequest(
                type="volume",
                source="vv",
                target="/x",
                volume_options=VolumeOptions(subpath="../y"),
            ),
            "must be a relative path",
        ),
        (MountRequest(type="npipe", source="a", target="/x"), "not supported"),
    ],
)
def test_bad_mount_requests(request_: MountRequest, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        from_request(request_)


def test_duplicates_are_refused() -> None:
    host = HostConfig(binds=["/a:/x"], tmpfs={"/x": ""})
    with pytest.raises(InvalidParameter, match="Duplicate mount point: /x"):
        from_host_config(host)


def test_image_volumes_give_way() -> None:
    taken = from_host_config(HostConfig(binds=["/a:/x"]))
    assert [m.destination for m in from_volumes(["/x", "/y", "/y/"], taken, "local")] == ["/y"]


def test_tmpfs_options() -> None:
    assert from_tmpfs("/t", "size=1m,exec").options[-2:] == ("size=1m", "exec")
    with pytest.raises(InvalidParameter, match="invalid tmpfs option"):
        from_tmpfs("/t", "bogus")


def test_volumes_from() -> None:
    assert parse_volumes_from("c:ro").read_only is True
    assert parse_volumes_from("c").read_only is None
    with pytest.raises(InvalidParameter, match="invalid mode: x"):
        parse_volumes_from("c:x")
    mount = parse_bind("data:/x")
    assert not inherit(mount, parse_volumes_from("c:ro")).point.rw
    assert inherit(mount, parse_volumes_from("c")).options == mount.options


def test_parents_are_mounted_first() -> None:
    mounts: list[ContainerMount] = [
        parse_bind("/a:/x/y/z"),
        parse_bind("/b:/x"),
        parse_bind("/c:/x/y"),
    ]
    spec = to_spec(mounts, {"/x/y/z": "/a", "/x": "/b", "/x/y": "/c"})
    assert [entry["destination"] for entry in spec] == ["/x", "/x/y", "/x/y/z"]
