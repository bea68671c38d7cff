//! What the `tiny` guest understands of a seed, tried on its own script with this machine's awk.

use std::io::Write as _;
use std::process::Command;

use crate::checkout;

/// What `seed.awk` finds under a name in a seed file.
fn value(name: &str, text: &str) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let script = checkout::root().join("images/tiny/rootfs/lib/seed.awk");
    checkout::output(Command::new("awk").args(["-v", &format!("want={name}"), "-f"]).arg(script).arg(file.path()))
        .unwrap()
}

#[test]
fn a_host_name_is_read_whatever_its_quotes_and_comments() {
    assert_eq!(value("local-hostname", "instance-id: i-1\nlocal-hostname: web-1\n"), "web-1\n");
    assert_eq!(value("hostname", "#cloud-config\nhostname: 'web-2'   # ours\n"), "web-2\n");
    assert_eq!(value("hostname", "#cloud-config\nhostname: \"web-3\"\n"), "web-3\n");
    assert_eq!(value("hostname", "#cloud-config\nother:\n  hostname: nested\n"), "");
}

#[test]
fn keys_are_found_at_any_depth_and_in_both_list_styles() {
    let block = "ssh_authorized_keys:\n- ssh-ed25519 AAAA a@b\n- \"ssh-rsa BBBB c@d\"\nother: 1\n";
    assert_eq!(value("ssh_authorized_keys", block), "ssh-ed25519 AAAA a@b\nssh-rsa BBBB c@d\n");
    let user = "users:\n  - name: root\n    ssh_authorized_keys:\n      - ssh-ed25519 AAAA a@b\n    shell: /bin/sh\n";
    assert_eq!(value("ssh_authorized_keys", user), "ssh-ed25519 AAAA a@b\n");
    assert_eq!(
        value("ssh_authorized_keys", "ssh_authorized_keys: [ssh-rsa A x, 'ssh-rsa B y']\n"),
        "ssh-rsa A x\nssh-rsa B y\n"
    );
}

#[test]
fn commands_become_a_script_with_one_item_a_line() {
    let text = r#"#cloud-config
runcmd:
  - echo plain one
  # a comment between items
  - "echo \"quoted: two\""
  - [ sh, -c, "echo 'three'; echo \"four, five\"" ]
  - [ ls,
      -l, / ]
  - |
    echo six
      echo seven
  - - touch
    - /tmp/eight nine
  - echo ten
    eleven
final_message: done
"#;
    let expected = r#"echo plain one
echo "quoted: two"
'sh' '-c' 'echo '\''three'\''; echo "four, five"'
'ls' '-l' '/'
echo six
  echo seven
'touch' '/tmp/eight nine'
echo ten eleven
"#;
    assert_eq!(value("runcmd", text), expected);
}

#[test]
fn roots_password_is_found_in_each_place_where_cloud_config_may_hold_it() {
    assert_eq!(value("password", "password: secret\n"), "secret\n");
    assert_eq!(
        value("password", "chpasswd:\n  expire: false\n  list: |\n    debian:other\n    root:secret\n"),
        "secret\n"
    );
    assert_eq!(
        value("password", "chpasswd:\n  list:\n    - root:secret\n    - debian:other\nhostname: x\n"),
        "secret\n"
    );
    assert_eq!(
        value("password", "chpasswd:\n  users:\n    - name: root\n      password: secret\n      type: text\n"),
        "secret\n"
    );
    assert_eq!(value("password", "hostname: x\n"), "");
}
