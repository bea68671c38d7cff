//! Images, for operators.

use berth_control::admit::CreateImage;
use berth_control::{Answer, Kind};
use berth_model::image::Image;
use berth_proto::convert::image_to_wire;
use berth_proto::v1;
use berth_proto::v1::image_service_server::ImageService;
use berth_state::{Cluster, Outcome};
use tonic::{Request, Response, Status};

use super::{Shared, caller, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

fn wire(view: &Cluster, image: &Image) -> v1::Image {
    image_to_wire(image, view.hosts.values().map(AsRef::as_ref))
}

fn answer(answer: &Answer, request_id: String) -> Response<v1::ImageAnswer> {
    let image = match answer.outcome {
        Outcome::Image(uid) => answer.view.images.values().find(|image| image.meta.uid == uid.0),
        Outcome::Done | Outcome::Vm(_) | Outcome::Host(_) => None,
    };
    let image = image.map(|image| wire(&answer.view, image));
    Response::new(v1::ImageAnswer { image, revision: answer.revision.0, request_id })
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn create_image(
        &self,
        request: Request<v1::CreateImageRequest>,
    ) -> Result<Response<v1::ImageAnswer>, Status> {
        let (caller, id, request) = caller::change("CreateImage", request)?;
        let v1::CreateImageRequest { write: _, name, labels, annotations, spec } = request;
        if !annotations.is_empty() {
            return Err(error::malformed(&berth_proto::ConvertError::new("annotations", "images have none")));
        }
        let v1::ImageSpec { sha256, virtual_size_bytes } = spec.ok_or_else(|| error::missing("spec"))?;
        let asked = CreateImage { name, labels, sha256, virtual_size: virtual_size_bytes };
        let done = self.0.control.create_image(&caller, &asked).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn get_image(&self, request: Request<v1::GetImageRequest>) -> Result<Response<v1::ImageAnswer>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let image = view.images.get(request.name.as_str()).ok_or_else(|| {
            let shown: String = request.name.chars().take(80).collect();
            let missing = berth_control::Error::new(Kind::NotFound, "BE-2002", format!("there is no image {shown:?}"));
            error::status(missing.hint("'berth image list' shows what is there"))
        })?;
        let image = Some(wire(&view, image));
        Ok(Response::new(v1::ImageAnswer { image, revision: view.revision.0, request_id: String::new() }))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let size = match request.page_size as usize {
            0 => 500,
            size => size.min(500),
        };
        let mut rest = view.images.values().filter(|image| image.meta.name.as_str() > request.page_token.as_str());
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let next_page_token = match (page.last(), rest.next()) {
            (Some(last), Some(_)) => last.meta.name.to_string(),
            _ => String::new(),
        };
        let images = page.into_iter().map(|image| wire(&view, image)).collect();
        Ok(Response::new(v1::ListImagesResponse { images, next_page_token, revision: view.revision.0 }))
    }

    async fn delete_image(
        &self,
        request: Request<v1::DeleteImageRequest>,
    ) -> Result<Response<v1::ImageAnswer>, Status> {
        let (caller, id, request) = caller::change("DeleteImage", request)?;
        let done = self.0.control.delete_image(&caller, &request.name).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }
}
