//! `berth image show`.

use berth_proto::v1;

use super::super::{Session, given};
use super::service;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::ImageView;

/// Reads one image and prints it.
pub(in crate::commands) async fn run(mut session: Session<'_>, name: String) -> Result<ExitStatus, Failure> {
    let question = v1::GetImageRequest { consistency: session.consistency(), name };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move { service(channel).get_image(question).await })
        .await?;
    let image = ImageView::from(given(answer.image, "image")?);
    session.print(&image, |style| render::image::show(&image, style))?;
    Ok(ExitStatus::Ok)
}
