//! `berth image`.

pub(super) mod create;
pub(super) mod delete;
pub(super) mod list;
pub(super) mod show;

use berth_proto::v1::image_service_client::ImageServiceClient;
use tonic::transport::Channel;

use crate::client::LARGEST_ANSWER;

fn service(channel: Channel) -> ImageServiceClient<Channel> {
    ImageServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}
