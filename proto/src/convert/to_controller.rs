//! What a host says to a controller.

use berth_model::session::ToController;

use super::{ConvertError, required};
use crate::v1;
use crate::v1::to_controller::Word;

impl From<&ToController> for v1::ToController {
    fn from(word: &ToController) -> Self {
        let word = match word {
            ToController::Hello(hello) => Word::Hello(hello.into()),
            ToController::Heartbeat { number } => Word::Heartbeat(v1::Heartbeat { number: *number }),
            ToController::Report(report) => Word::Report(report.as_ref().into()),
        };
        Self { word: Some(word) }
    }
}

impl TryFrom<v1::ToController> for ToController {
    type Error = ConvertError;

    fn try_from(wire: v1::ToController) -> Result<Self, ConvertError> {
        let v1::ToController { word } = wire;
        Ok(match word.ok_or_else(|| ConvertError::missing("word"))? {
            Word::Hello(hello) => Self::Hello(required(Some(hello), "hello")?),
            Word::Heartbeat(v1::Heartbeat { number }) => Self::Heartbeat { number },
            Word::Report(report) => Self::Report(Box::new(required(Some(report), "report")?)),
        })
    }
}
