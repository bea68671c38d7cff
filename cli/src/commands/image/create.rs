//! `berth image create`.

use std::fs::File;

use berth_model::image::ImageSpec;
use berth_proto::v1;

use super::super::{Session, Writing, given};
use super::service;
use crate::args::image::Create;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::qcow2;
use crate::view::ImageView;

/// What to name, from the file or the arguments.
pub(in crate::commands) fn spec(create: &Create) -> Result<ImageSpec, Failure> {
    match (&create.file, create.sha256, create.size) {
        (Some(path), _, _) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| Failure::refused(format!("cannot read {name}: {error}")))?;
            qcow2::examine(&name, file)
        }
        (None, Some(sha256), Some(virtual_size)) => Ok(ImageSpec { sha256, virtual_size }),
        (None, _, _) => Err(Failure::usage("give --file, or --sha256 and --size")),
    }
}

/// Asks.
pub(in crate::commands) async fn run(
    mut session: Session<'_>,
    create: Create,
    spec: ImageSpec,
) -> Result<ExitStatus, Failure> {
    let check = format!("berth image show {}", create.name);
    let Writing { write, effect } = Writing::new(create.request_id.as_deref(), None, None, check);
    let question = v1::CreateImageRequest {
        write: Some(write),
        name: create.name,
        spec: Some(v1::ImageSpec { sha256: spec.sha256.to_string(), virtual_size_bytes: spec.virtual_size.0 }),
        ..v1::CreateImageRequest::default()
    };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).create_image(question).await })
        .await?;
    let image = ImageView::from(given(answer.image, "image")?);
    if image.status.copies.is_empty() {
        session.printer.note(&format!(
            "no host has the file yet; bring it to the images folder of each host, named {}",
            image.spec.sha256
        ));
    }
    let name = image.metadata.name.clone();
    session.print(&image, |_| format!("{name} names {} ({})\n", spec.sha256, spec.virtual_size))?;
    Ok(ExitStatus::Ok)
}
