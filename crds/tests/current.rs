//! The YAML is what the types say; `POSTERN_UPDATE=1` writes it.

use std::{fs, path::Path};

use postern_crds::yaml;

#[test]
fn chart_has_current_definitions() {
    current(
        "../charts/postern/templates/crds",
        &yaml::files(yaml::served()).unwrap(),
    );
}

fn current(directory: &str, files: &[(String, String)]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    if std::env::var_os("POSTERN_UPDATE").is_some() {
        fs::create_dir_all(&directory).expect("the directory can be made");
        for (name, yaml) in files {
            fs::write(directory.join(name), yaml).expect("it can be written");
        }
    }
    for (name, yaml) in files {
        let committed = fs::read_to_string(directory.join(name)).unwrap_or_default();
        assert!(
            committed == *yaml,
            "{name} is not current: run `POSTERN_UPDATE=1 cargo test -p postern-crds`"
        );
    }
    assert_eq!(
        fs::read_dir(directory).expect("it can be read").count(),
        files.len(),
        "a definition without a type"
    );
}

#[test]
fn definitions_hold_nothing_that_a_template_would_change() {
    for (name, yaml) in yaml::files(yaml::served()).unwrap() {
        assert!(
            !yaml.contains("{{"),
            "{name} would be changed by the chart's templating"
        );
        assert!(yaml.contains("helm.sh/resource-policy: keep"), "{name}");
    }
}
