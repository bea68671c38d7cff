//! `berth image list`.

use berth_proto::v1;

use super::super::Session;
use super::service;
use crate::args::Output;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::{ImageView, ListView};

/// Images in one answer.
const PAGE: u32 = 200;

/// Reads all pages and prints them.
pub(in crate::commands) async fn run(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let mut images: Vec<ImageView> = Vec::new();
    let mut page_token = String::new();
    let revision = loop {
        let question = v1::ListImagesRequest { consistency: session.consistency(), page_size: PAGE, page_token };
        let answer =
            session
                .client
                .ask(&Effect::Read, question, |channel, question| async move {
                    service(channel).list_images(question).await
                })
                .await?;
        images.extend(answer.images.into_iter().map(ImageView::from));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break answer.revision;
        }
    };
    if images.is_empty() && session.global.output == Output::Table {
        session.printer.note("no images yet; name one with 'berth image create'");
    }
    let list = ListView::new("Image", revision, images);
    session.print(&list, |style| render::image::list(&list.items, style))?;
    Ok(ExitStatus::Ok)
}
