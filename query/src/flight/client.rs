//! Owns the client side of the query address, as the command line uses it; does not print or interpret answers.

use std::path::Path;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightClient, FlightDescriptor, FlightInfo, Ticket};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

/// One message of an answer. The node aims at 2 MiB; a row with long texts may be bigger.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Where to connect and as whom.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port`.
    pub addr: String,
    /// Authorities that may vouch for the node, PEM. `None` connects in the clear.
    pub authority_pem: Option<Vec<u8>>,
    /// Client certificate chain and key, PEM.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// Sent as `authorization: Bearer …`.
    pub bearer: Option<String>,
    /// The name that the node's certificate must carry when it is not the host of `addr`.
    pub server_name: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

impl ClientOptions {
    /// In the clear, without credentials.
    pub fn plain(addr: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            authority_pem: None,
            identity_pem: None,
            bearer: None,
            server_name: None,
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// With the files of a TLS folder: `ca.pem`, and `<name>.pem` with `<name>-key.pem` when the first of them exists.
    ///
    /// # Errors
    /// When a file that must be there cannot be read; the message has its path.
    pub fn from_tls_dir(addr: &str, dir: &Path, name: &str) -> Result<Self, ClientError> {
        let read = |file: String| {
            let path = dir.join(file);
            std::fs::read(&path).map_err(|source| ClientError::File { path: path.display().to_string(), source })
        };
        let mut options = Self::plain(addr);
        options.authority_pem = Some(read("ca.pem".to_owned())?);
        if dir.join(format!("{name}.pem")).exists() {
            options.identity_pem = Some((read(format!("{name}.pem"))?, read(format!("{name}-key.pem"))?));
        }
        Ok(options)
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file of the TLS folder could not be read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no connection.
    #[error("{addr}: cannot connect: {message}; is the node running, and is this its query address?")]
    Connect {
        /// Where to.
        addr: String,
        /// What failed.
        message: String,
    },
    /// The node refused or failed. The message is written for its reader.
    #[error("{message} ({})", code_name(*.code))]
    Refused {
        /// The gRPC status code.
        code: Code,
        /// The node's words.
        message: String,
    },
    /// The node's answer makes no sense.
    #[error("answer not understood: {0}")]
    Protocol(String),
}

impl From<FlightError> for ClientError {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => (*status).into(),
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused { code: status.code(), message: status.message().to_owned() }
    }
}

/// A connection to a node's query address. Clones share it.
#[derive(Clone, Debug)]
pub struct QueryClient {
    channel: Channel,
    bearer: Option<String>,
}

impl QueryClient {
    /// Connects, and checks the node's certificate.
    ///
    /// # Errors
    /// When the address, the TLS files or the connection fail.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let failed = |error: &dyn std::error::Error| ClientError::Connect {
            addr: options.addr.clone(),
            message: with_causes(error),
        };
        let scheme = if options.authority_pem.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", options.addr))
            .map_err(|error| failed(&error))?
            .tcp_nodelay(true)
            .connect_timeout(options.connect_timeout)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        if let Some(authority) = &options.authority_pem {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
            if let Some((certificate, key)) = &options.identity_pem {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = &options.server_name {
                tls = tls.domain_name(name);
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| failed(&error))?;
        }
        let channel = endpoint.connect().await.map_err(|error| failed(&error))?;
        Ok(Self { channel, bearer: options.bearer })
    }

    /// Asks a question (the JSON of a ticket) and returns its answer as a stream; dropping it cancels the query.
    ///
    /// # Errors
    /// When the node refuses the question.
    pub async fn query(&self, question: &str) -> Result<Answer, ClientError> {
        let batches = self.flight()?.do_get(Ticket::new(question.to_owned())).await?;
        Ok(Answer { messages: batches.into_inner(), schema: None, damage: None })
    }

    /// Runs an action and collects its results.
    ///
    /// # Errors
    /// When the node refuses or fails.
    pub async fn action(&self, name: &str, body: impl Into<Bytes>) -> Result<Vec<Bytes>, ClientError> {
        let results = self.flight()?.do_action(Action::new(name, body)).await?;
        Ok(results.try_collect().await?)
    }

    /// What the node says about a question without running it.
    ///
    /// # Errors
    /// When the node refuses the question.
    pub async fn info(&self, question: &str) -> Result<FlightInfo, ClientError> {
        Ok(self.flight()?.get_flight_info(FlightDescriptor::new_cmd(question.to_owned())).await?)
    }

    /// The columns that the answer to a question would have.
    ///
    /// # Errors
    /// When the node refuses the question.
    pub async fn schema(&self, question: &str) -> Result<Schema, ClientError> {
        Ok(self.flight()?.get_schema(FlightDescriptor::new_cmd(question.to_owned())).await?)
    }

    /// The tables that the caller may read.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn tables(&self) -> Result<Vec<FlightInfo>, ClientError> {
        let flights = self.flight()?.list_flights(Bytes::new()).await?;
        Ok(flights.try_collect().await?)
    }

    /// A Flight client over the same connection, for calls that have no shorthand here.
    ///
    /// # Errors
    /// When the token cannot be sent as a header.
    pub fn flight(&self) -> Result<FlightClient, ClientError> {
        let inner = FlightServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let mut client = FlightClient::new_from_inner(inner);
        if let Some(token) = &self.bearer {
            client.add_header("authorization", &format!("Bearer {token}"))?;
        }
        Ok(client)
    }
}

/// The record batches of an answer, as they arrive.
pub struct Answer {
    messages: FlightDataDecoder,
    schema: Option<SchemaRef>,
    damage: Option<serde_json::Value>,
}

impl Answer {
    /// The next batch that has rows; `None` at the end.
    ///
    /// # Errors
    /// When the node fails or the connection breaks while the answer is under way.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, ClientError> {
        loop {
            let Some(message) = self.messages.next().await.transpose()? else { return Ok(None) };
            if let Ok(serde_json::Value::Object(mut metadata)) = serde_json::from_slice(&message.inner.app_metadata) {
                self.damage = metadata.remove("damage").or(self.damage.take());
            }
            match message.payload {
                DecodedPayload::Schema(schema) => self.schema = Some(schema),
                // Empty batches keep quiet streams alive or bring metadata.
                DecodedPayload::RecordBatch(batch) if batch.num_rows() > 0 => return Ok(Some(batch)),
                DecodedPayload::RecordBatch(_) | DecodedPayload::None => {}
            }
        }
    }

    /// The schema, known after the first call of [`Answer::next`].
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    /// What the answer went without because a file is damaged, known at its end: an object with `places` and `more`.
    pub fn damage(&self) -> Option<&serde_json::Value> {
        self.damage.as_ref()
    }

    /// All batches.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>, ClientError> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The batches as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<RecordBatch, ClientError>> {
        stream::unfold(self, |mut answer| async move { answer.next().await.transpose().map(|batch| (batch, answer)) })
    }
}

/// `UNAVAILABLE` and its like: the names that gRPC's own documents use.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_grpc_names() {
        assert_eq!(code_name(Code::InvalidArgument), "INVALID_ARGUMENT");
        assert_eq!(code_name(Code::Ok), "OK");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = ClientOptions::from_tls_dir("x:1", Path::new("/nowhere"), "dev").unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/ca.pem"), "{error}");
    }
}
