//! What this program is: version, commit, compiler.

use std::fmt;

/// Where a program came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// The version of the workspace.
    pub version: &'static str,
    /// The commit it was built from, if the build was told in `BERTH_BUILD_COMMIT`.
    pub commit: Option<&'static str>,
    /// The compiler, as it names itself.
    pub rustc: &'static str,
}

/// This program.
pub const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    commit: option_env!("BERTH_BUILD_COMMIT"),
    rustc: env!("BERTH_BUILD_RUSTC"),
};

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}{})",
            self.version,
            self.commit.map(|commit| format!("{commit}, ")).unwrap_or_default(),
            self.rustc
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_names_its_version_and_compiler_and_its_commit_if_known() {
        assert!(BUILD.rustc.starts_with("rustc 1."), "{BUILD:?}");
        let plain = Build { version: "1.2.3", commit: None, rustc: "rustc 1.95.0" };
        assert_eq!(plain.to_string(), "1.2.3 (rustc 1.95.0)");
        assert_eq!(Build { commit: Some("abc"), ..plain }.to_string(), "1.2.3 (abc, rustc 1.95.0)");
    }
}
