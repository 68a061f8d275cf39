//! A Secret as its class and the volume's files make it.

use super::check::{self, TLS};
use super::error::SecretFault;
use super::{Files, MADE_FROM, MANAGED_LABEL};
use crate::class::SecretObject;
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::digest::{SHA256, digest};
use ring::hmac;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use vault::TlsFile;
use zeroize::Zeroizing;

/// What the API server lets a Secret hold, in bytes (`MaxSecretSize`).
const LARGEST: usize = 1024 * 1024;

/// What a Secret is to be. Values are in base64, as the API server has them.
pub(super) struct Desired {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) data: BTreeMap<String, Zeroizing<String>>,
}

/// Stands for the content of a [`Desired`]: two of one process are equal if their contents are, and it tells nothing of
/// them, because it is made with a key that only this process has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

/// Stands for type, labels, annotations and keys of a [`Desired`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape(pub(super) u64);

/// Which class a Secret was made from last, and what that makes of its files: the annotation [`MADE_FROM`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MadeFrom {
    pub(super) class: String,
    pub(super) shape: Shape,
}

impl MadeFrom {
    /// Reads the annotation; `None` if it is none that this driver writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (class, shape) = text.rsplit_once('/')?;
        Some(Self { class: class.to_owned(), shape: Shape(u64::from_str_radix(shape, 16).ok()?) })
    }

    /// Whether the two are classes that make different things of their files. Classes that make the same of the same objects
    /// are no rivals: their values only come at different times.
    pub(super) fn rivals(&self, other: &Self) -> bool {
        self.class != other.class && self.shape != other.shape
    }
}

impl fmt::Display for MadeFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.class, self.shape.0)
    }
}

impl Desired {
    /// Makes a Secret of files.
    ///
    /// # Errors
    /// The first thing that is wrong; the Secret is then not to be touched.
    pub(super) fn of(object: &SecretObject, files: &Files<'_>) -> Result<Self, SecretFault> {
        if let Some(fault) = check::faults(object).into_iter().next() {
            return Err(fault);
        }
        let kind = object.kind.trim();
        let mut data = BTreeMap::new();
        let mut taken_apart: HashMap<&str, TlsFile> = HashMap::new();
        for entry in &object.data {
            let (name, key) = (entry.object_name.trim(), entry.key.trim());
            let Some(bytes) = files.get(name).copied() else {
                return Err(check::no_file(name, files.keys().copied()));
            };
            let value: Cow<'_, [u8]>;
            let part;
            if kind == TLS {
                let failed = |cause| SecretFault::Tls { file: name.to_owned(), cause };
                let file = match taken_apart.get(name) {
                    Some(file) => file,
                    None => taken_apart.entry(name).or_insert(TlsFile::read(bytes).map_err(failed)?),
                };
                part = match key {
                    "tls.key" => file.private_key(),
                    "ca.crt" => file.authorities(),
                    _ => file.certificates(),
                }
                .map_err(failed)?;
                value = Cow::Borrowed(&part);
            } else {
                value = Cow::Borrowed(bytes);
            }
            data.insert(key.to_owned(), (value.len(), Zeroizing::new(BASE64_STANDARD.encode(value))));
        }
        let bytes = data.values().map(|(bytes, _)| bytes).sum();
        if bytes > LARGEST {
            return Err(SecretFault::TooLarge { bytes });
        }
        let mut labels = object.labels.clone();
        labels.insert(MANAGED_LABEL.to_owned(), "true".to_owned());
        let mut annotations = object.annotations.clone();
        annotations.remove(MADE_FROM);
        Ok(Self {
            name: object.secret_name.trim().to_owned(),
            kind: kind.to_owned(),
            labels,
            annotations,
            data: data.into_iter().map(|(key, (_, value))| (key, value)).collect(),
        })
    }

    /// What this content is remembered by.
    pub(super) fn fingerprint(&self, key: &hmac::Key) -> Fingerprint {
        let mut context = hmac::Context::with_key(key);
        let values = self.data.values().map(|value| value.as_str());
        self.each_part(values, |part| context.update(part));
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.sign().as_ref());
        Fingerprint(fingerprint)
    }

    /// What the class makes of the files, whatever they hold. The same on every node, and nothing secret is in it.
    pub(super) fn shape(&self) -> Shape {
        let mut parts = Vec::new();
        self.each_part(std::iter::empty(), |part| parts.extend_from_slice(part));
        let mut shape = [0; 8];
        shape.iter_mut().zip(digest(&SHA256, &parts).as_ref()).for_each(|(to, from)| *to = *from);
        Shape(u64::from_be_bytes(shape))
    }

    fn each_part<'a>(&'a self, values: impl Iterator<Item = &'a str>, mut update: impl FnMut(&[u8])) {
        // Each part after its length, so that no two contents run together to the same bytes.
        let mut add = |part: &str| {
            update(&part.len().to_be_bytes());
            update(part.as_bytes());
        };
        add(&self.kind);
        for map in [&self.labels, &self.annotations] {
            add(&map.len().to_string());
            for (key, value) in map {
                add(key);
                add(value);
            }
        }
        add(&self.data.len().to_string());
        self.data.keys().map(String::as_str).chain(values).for_each(add);
    }
}

#[cfg(test)]
impl Fingerprint {
    pub(super) fn for_test(byte: u8) -> Self {
        Self([byte; 32])
    }
}

impl fmt::Debug for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desired")
            .field("name", &self.name)
            .field("keys", &self.data.keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::SecretObjectData;
    use proptest::prelude::*;

    fn object(kind: &str, data: &[(&str, &str)]) -> SecretObject {
        let data = data
            .iter()
            .map(|(file, key)| SecretObjectData { object_name: (*file).into(), key: (*key).into() })
            .collect();
        SecretObject { secret_name: " s ".into(), kind: format!(" {kind} "), data, ..SecretObject::default() }
    }

    fn value(desired: &Desired, key: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(desired.data[key].as_bytes()).unwrap()
    }

    #[test]
    fn a_file_may_be_taken_more_than_once_and_the_last_entry_of_a_key_counts() {
        let files = Files::from([("a", &b"1"[..]), ("dir/b", b"\xff\0")]);
        let object = object("Opaque", &[("a", "k"), ("dir/b", " k "), (" a ", "l"), ("a", "m")]);
        let desired = Desired::of(&object, &files).unwrap();
        assert_eq!((desired.name.as_str(), desired.kind.as_str()), ("s", "Opaque"));
        assert_eq!(value(&desired, "k"), b"\xff\0");
        assert_eq!((value(&desired, "l"), value(&desired, "m")), (b"1".to_vec(), b"1".to_vec()));
        assert_eq!(desired.labels, BTreeMap::from([(MANAGED_LABEL.to_owned(), "true".to_owned())]));
        assert_eq!(format!("{desired:?}"), "Desired { name: \"s\", keys: [\"k\", \"l\", \"m\"], .. }");
    }

    #[test]
    fn the_label_that_marks_it_cannot_be_taken_away() {
        let mut object = object("Opaque", &[("a", "k")]);
        object.labels = [(MANAGED_LABEL.to_owned(), "false".to_owned())].into();
        assert_eq!(
            Desired::of(&object, &Files::from([("a", &b""[..])])).unwrap().labels[MANAGED_LABEL],
            "true"
        );
    }

    #[test]
    fn a_missing_file_a_wrong_file_and_too_much_are_told() {
        let big = vec![0; LARGEST / 2 + 1];
        let files = Files::from([("a", &b"x"[..]), ("b", &big)]);
        let fault = |object: SecretObject| Desired::of(&object, &files).unwrap_err().to_string();
        assert_eq!(
            fault(object("Opaque", &[("c", "k")])),
            "file matching objectName c not found in the pod: the volume has a, b; objectName is an object's objectAlias, or its \
             objectName where it has none"
        );
        let tls = fault(object(TLS, &[("a", "tls.crt"), ("a", "tls.key")]));
        assert!(tls.starts_with("failed to get cert data from file a, err: it has no PEM block"), "{tls}");
        let large = fault(object("Opaque", &[("b", "k"), ("b", "l")]));
        assert!(large.contains("the files have 1048578 bytes together; a Secret holds 1048576"), "{large}");
        assert!(Desired::of(&object("Opaque", &[("b", "k")]), &files).is_ok());
    }

    #[test]
    fn files_of_a_tls_secret_are_taken_apart() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        let file = format!("{}{}", key.serialize_pem(), certificate.pem()).replace("\r\n", "\n");
        let files = Files::from([("cert", file.as_bytes())]);
        let object = object(TLS, &[("cert", "tls.crt"), ("cert", "tls.key"), ("cert", "ca.crt")]);
        let desired = Desired::of(&object, &files).unwrap();
        let certificate = certificate.pem().replace("\r\n", "\n");
        assert_eq!(String::from_utf8(value(&desired, "tls.crt")).unwrap(), certificate);
        assert_eq!(value(&desired, "ca.crt"), certificate.as_bytes());
        assert!(value(&desired, "tls.key").starts_with(b"-----BEGIN EC PRIVATE KEY-----\n"));
    }

    proptest! {
        #[test]
        fn files_come_through_unchanged_and_fingerprints_tell_contents_apart(
            one in any::<Vec<u8>>(), other in any::<Vec<u8>>(), label in "[a-z]{0,3}",
        ) {
            let key = hmac::Key::new(hmac::HMAC_SHA256, b"k");
            let desired = |bytes: &[u8], label: &str| {
                let mut object = object("Opaque", &[("a", "k")]);
                object.labels = [("l".to_owned(), label.to_owned())].into();
                Desired::of(&object, &Files::from([("a", bytes)])).unwrap()
            };
            let first = desired(&one, &label);
            prop_assert_eq!(value(&first, "k"), &one[..]);
            prop_assert!(first.fingerprint(&key) == desired(&one, &label).fingerprint(&key));
            prop_assert_eq!(first.fingerprint(&key) == desired(&other, &label).fingerprint(&key), one == other);
            prop_assert!(first.shape() == desired(&other, &label).shape());
            let longer = format!("{label}x");
            prop_assert!(first.fingerprint(&key) != desired(&one, &longer).fingerprint(&key));
        }
    }
}
