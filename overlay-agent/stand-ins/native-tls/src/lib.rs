//! Stand-in for `native-tls`, which would bind the agent to the system's OpenSSL.
//!
//! `consulrs` takes `rustify` with its default features, and these turn on `reqwest`'s `default-tls`, which needs
//! a crate of this name with these types. The agent picks rustls for each of its connections, so that none is ever
//! made here: there is no value of a connector, and asking for one is an error. Certificates pass through `reqwest`,
//! which hands them to both libraries before it knows which is to be used.

#![expect(
    missing_docs,
    reason = "the names and their meaning are those of the crate that this stands in for"
)]
#![expect(clippy::missing_errors_doc, reason = "as above")]

use std::{
    convert::Infallible,
    fmt,
    io::{self, Read, Write},
    marker::PhantomData,
};

pub type Result<T> = std::result::Result<T, Error>;

/// What whoever asks for TLS here is told.
#[derive(Debug)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this build has no TLS of the system's: use rustls")
    }
}

impl std::error::Error for Error {}

/// A certificate that nobody looks at.
#[derive(Clone)]
pub struct Certificate;

impl Certificate {
    pub fn from_der(_: &[u8]) -> Result<Self> {
        Ok(Self)
    }

    pub fn from_pem(_: &[u8]) -> Result<Self> {
        Ok(Self)
    }

    pub fn to_der(&self) -> Result<Vec<u8>> {
        Err(Error)
    }
}

pub enum Protocol {
    Tlsv10,
    Tlsv11,
    Tlsv12,
}

/// Takes every wish and builds nothing.
pub struct TlsConnectorBuilder(());

impl TlsConnectorBuilder {
    pub fn danger_accept_invalid_certs(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn use_sni(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn disable_built_in_roots(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn add_root_certificate(&mut self, _: Certificate) -> &mut Self {
        self
    }

    pub fn min_protocol_version(&mut self, _: Option<Protocol>) -> &mut Self {
        self
    }

    pub fn max_protocol_version(&mut self, _: Option<Protocol>) -> &mut Self {
        self
    }

    pub fn build(&self) -> Result<TlsConnector> {
        Err(Error)
    }
}

/// There is none.
#[derive(Clone)]
pub struct TlsConnector(Infallible);

impl TlsConnector {
    pub fn new() -> Result<Self> {
        Err(Error)
    }

    #[must_use]
    pub fn builder() -> TlsConnectorBuilder {
        TlsConnectorBuilder(())
    }

    pub fn connect<S: Read + Write>(
        &self,
        _: &str,
        _: S,
    ) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

/// There is none.
#[derive(Clone)]
pub struct TlsAcceptor(Infallible);

impl TlsAcceptor {
    pub fn accept<S: Read + Write>(&self, _: S) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

pub enum HandshakeError<S> {
    Failure(Error),
    WouldBlock(MidHandshakeTlsStream<S>),
}

/// There is none.
pub struct MidHandshakeTlsStream<S>(Infallible, PhantomData<S>);

impl<S> MidHandshakeTlsStream<S> {
    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }

    pub fn handshake(self) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

/// There is none.
#[derive(Debug)]
pub struct TlsStream<S>(Infallible, PhantomData<S>);

impl<S> TlsStream<S> {
    pub fn get_ref(&self) -> &S {
        match self.0 {}
    }

    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }

    pub fn peer_certificate(&self) -> Result<Option<Certificate>> {
        match self.0 {}
    }

    pub fn shutdown(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}

impl<S> Read for TlsStream<S> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl<S> Write for TlsStream<S> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}
