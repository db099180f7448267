# SPDX-License-Identifier: Apache-2.0
"""What is taken from the host to make and enter a Debian of another release."""

from lab import debian

INDEXES = """\
http://mirror/debian/ bookworm main Debian
http://mirror/debian/ bookworm contrib Debian
http://mirror/debian/ bookworm-updates main Debian
http://security/ bookworm-security main Debian
http://mirror/debian/ bookworm-backports main Debian
http://elsewhere/ stable main Somebody
http://nameless/ bookworm main
"""


def test_the_mirrors_of_a_host_serve_another_release():
    assert debian.sources(INDEXES, "trixie") == [
        "deb http://mirror/debian/ trixie main",
        "deb http://mirror/debian/ trixie-updates main",
        "deb http://security/ trixie-security main",
    ]


def test_testing_has_one_archive():
    assert debian.sources(INDEXES, "testing") == ["deb http://mirror/debian/ testing main"]


def test_settings_of_pip_become_variables_and_the_paths_that_they_name(tmp_path):
    index, wheels, bundle = (tmp_path / name for name in ("index", "wheels", "bundle.crt"))
    index.mkdir()
    wheels.mkdir()
    bundle.touch()
    said = (
        f":env:.find-links='{wheels}'\n"
        ":env:.config-file='/etc/of-mine'\n"
        f"global.cert='{bundle}'\n"
        f"global.extra-index-url='file://{index}/simple\\nhttp://mirror/simple'\n"
        "global.find-links='/is/not/there'\n"
        "install.user='yes'\n"
    )

    settings, paths = debian.pip_settings(said)

    assert settings == {
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CERT": str(bundle),
        "PIP_EXTRA_INDEX_URL": f"file://{index}/simple http://mirror/simple",
    }
    assert paths == sorted([str(wheels), str(bundle), str(index)])


def test_a_command_is_entered_with_its_folders_and_variables_alone(monkeypatch):
    monkeypatch.setattr(debian, "pip_settings", lambda: ({"PIP_CERT": "/a"}, ["/a"]))
    monkeypatch.setenv("SECRET", "of the host")
    monkeypatch.setenv("https_proxy", "http://proxy")

    words = debian.entered("/root", ["make", "test"], shown={"/here": "/there"}, cwd="/there")

    enter = words[words.index("/root") + 1 :]
    assert enter[-2:] == ["make", "test"]
    assert enter[enter.index("--") - 4 : enter.index("--")] == ["/a", "/a", "/here", "/there"]
    assert {"PIP_CERT=/a", "https_proxy=http://proxy", "HOME=/root"} <= set(enter)
    assert not any("SECRET" in word for word in words)
