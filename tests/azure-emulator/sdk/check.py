#!/usr/bin/env python3
"""Runs unmodified Azure SDK clients against a running emulator.

Usage: check.py READY_LINE_FILE

The file holds the line of JSON the emulator prints when it is ready. Every check prints one line; the first that
fails ends the program with a non-zero status.
"""

import base64
import datetime
import json
import logging
import os
import socket
import sys
import tempfile
import time
import urllib.request
import uuid

import jwt
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import (
    CertificateCredential,
    ClientAssertionCredential,
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)
from azure.keyvault.certificates import CertificateClient, CertificateContentType, CertificatePolicy
from azure.keyvault.keys import JsonWebKey, KeyClient
from azure.keyvault.secrets import SecretClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

# Refusals are asked for here; the SDK need not tell of them.
logging.getLogger("azure").setLevel(logging.CRITICAL)

READY = json.load(open(sys.argv[1], encoding="utf-8"))
CA = READY["caFile"]
TENANT = READY["tenant"]
AUTHORITY = READY["authority"].rstrip("/")
PORT = READY["https"].rsplit(":", 1)[1]
VAULT = f"sdk-{uuid.uuid4().hex[:12]}"
BY_NAME = f"https://{VAULT}.{READY['vaultSuffix']}"

# Names below the emulator's own suffix are found as a resolver set up for them would find them.
resolve = socket.getaddrinfo
SUFFIX = READY["vaultSuffix"].split(":")[0]
socket.getaddrinfo = lambda host, *rest, **more: resolve(
    "127.0.0.1" if isinstance(host, str) and host.endswith("." + SUFFIX) else host, *rest, **more
)


def control(method, path, body=None):
    request = urllib.request.Request(
        READY["control"] + path, method=method, data=None if body is None else json.dumps(body).encode()
    )
    with urllib.request.urlopen(request) as response:
        text = response.read()
        return json.loads(text) if text and response.headers.get_content_type() == "application/json" else None


def step(text):
    print(f"ok   {text}", flush=True)


def fails(expected, call, *fragments):
    try:
        call()
    except expected as error:
        for fragment in fragments:
            assert fragment in str(error), f"{fragment!r} is not in: {error}"
        return error
    raise AssertionError(f"no {expected.__name__} was raised")


def entra_options():
    return {"authority": AUTHORITY, "disable_instance_discovery": True, "connection_verify": CA}


def clients(credential, url=BY_NAME, **options):
    options.setdefault("connection_verify", CA)
    return (
        SecretClient(url, credential, **options),
        KeyClient(url, credential, **options),
        CertificateClient(url, credential, **options),
    )


def certificate(subject, key, issuer=None, issuer_key=None, ca=False):
    now = datetime.datetime.now(datetime.timezone.utc)
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer or subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=100))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key or key, hashes.SHA256())
    )


def pem(thing):
    return thing.public_bytes(serialization.Encoding.PEM)


def pkcs8(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def spki(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def check_secrets(secrets):
    first = secrets.set_secret("plain", "one", content_type="text/plain", tags={"team": "a"})
    second = secrets.set_secret("plain", "two")
    assert secrets.get_secret("plain").value == "two"
    got = secrets.get_secret("plain", first.properties.version)
    assert (got.value, got.properties.content_type, got.properties.tags) == ("one", "text/plain", {"team": "a"})
    assert got.properties.enabled and got.properties.recoverable_days == 90
    assert {p.version for p in secrets.list_properties_of_secret_versions("plain")} == {
        first.properties.version,
        second.properties.version,
    }
    step("secrets: set, get newest and by version, list versions")

    for number in range(60):
        secrets.set_secret(f"many-{number}", str(number))
    names = {p.name for p in secrets.list_properties_of_secrets()}
    assert {f"many-{number}" for number in range(60)} <= names
    pages = [list(page) for page in secrets.list_properties_of_secrets().by_page()]
    assert len(pages) >= 3 and max(map(len, pages)) == 25
    assert len(list(next(secrets.list_properties_of_secrets(max_page_size=7).by_page()))) == 7
    for _ in range(30):
        secrets.set_secret("often", "x")
    assert len({p.version for p in secrets.list_properties_of_secret_versions("often")}) == 30
    step("secrets: lists in pages")

    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    secrets.set_secret("expired", "old", expires_on=past)
    expired = secrets.get_secret("expired")
    assert expired.value == "old" and expired.properties.expires_on == past
    secrets.set_secret("early", "new", not_before=datetime.datetime(2090, 1, 1, tzinfo=datetime.timezone.utc))
    assert secrets.get_secret("early").value == "new"
    secrets.set_secret("off", "x")
    updated = secrets.update_secret_properties("off", enabled=False, content_type="a/b")
    assert not updated.enabled and updated.content_type == "a/b"
    fails(HttpResponseError, lambda: secrets.get_secret("off"), "Operation get is not allowed on a disabled secret")
    step("secrets: expired and early ones are read, disabled ones are not")

    deleted = secrets.begin_delete_secret("plain").result()
    assert deleted.name == "plain" and deleted.recovery_id and deleted.scheduled_purge_date
    fails(ResourceNotFoundError, lambda: secrets.get_secret("plain"), "SecretNotFound")
    fails(ResourceExistsError, lambda: secrets.set_secret("plain", "x"), "deleted but recoverable")
    assert "plain" in {d.name for d in secrets.list_deleted_secrets()}
    assert secrets.get_deleted_secret("plain").name == "plain"
    secrets.begin_recover_deleted_secret("plain").wait()
    assert secrets.get_secret("plain").value == "two"
    secrets.begin_delete_secret("plain").wait()
    secrets.purge_deleted_secret("plain")
    fails(ResourceNotFoundError, lambda: secrets.get_deleted_secret("plain"))
    secrets.set_secret("plain", "three")
    backup = secrets.backup_secret("plain")
    secrets.begin_delete_secret("plain").wait()
    secrets.purge_deleted_secret("plain")
    assert secrets.restore_secret_backup(backup).name == "plain"
    assert secrets.get_secret("plain").value == "three"
    step("secrets: delete, recover, purge, backup, restore")
    fails(ResourceNotFoundError, lambda: secrets.get_secret("none"), "SecretNotFound")
    fails(HttpResponseError, lambda: secrets.get_secret("bad_name"), "BadParameter")


def check_keys(keys):
    made = keys.create_rsa_key("rsa", size=3072)
    number = int.from_bytes(made.key.n, "big")
    assert number.bit_length() == 3072 and made.key.kty == "RSA" and keys.get_key("rsa").id == made.id
    assert keys.create_rsa_key("rsa-hsm", hardware_protected=True).key.kty == "RSA-HSM"
    curves = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1, "P-256K": ec.SECP256K1}
    for name, curve in curves.items():
        made = keys.create_ec_key(f"ec-{name}", curve=name)
        assert made.key.crv == name
        x, y = (int.from_bytes(n, "big") for n in (made.key.x, made.key.y))
        ec.EllipticCurvePublicNumbers(x, y, curve()).public_key()
    assert keys.create_ec_key("ec-hsm", hardware_protected=True).key.kty == "EC-HSM"
    assert keys.create_oct_key("oct", size=256, hardware_protected=True).key.kty == "oct-HSM"
    step("keys: create RSA, EC on every curve, HSM kinds, oct-HSM")

    own = rsa.generate_private_key(65537, 2048)
    numbers = own.private_numbers()
    raw = lambda n: n.to_bytes((n.bit_length() + 7) // 8, "big")
    imported = keys.import_key(
        "imported-rsa",
        JsonWebKey(
            kty="RSA", n=raw(numbers.public_numbers.n), e=raw(numbers.public_numbers.e), d=raw(numbers.d),
            p=raw(numbers.p), q=raw(numbers.q), dp=raw(numbers.dmp1), dq=raw(numbers.dmq1), qi=raw(numbers.iqmp),
        ),
    )
    assert int.from_bytes(imported.key.n, "big") == numbers.public_numbers.n
    own = ec.generate_private_key(ec.SECP521R1()).private_numbers()
    imported = keys.import_key(
        "imported-ec",
        JsonWebKey(
            kty="EC", crv="P-521", x=raw(own.public_numbers.x), y=raw(own.public_numbers.y), d=raw(own.private_value)
        ),
    )
    assert int.from_bytes(imported.key.x, "big") == own.public_numbers.x
    step("keys: import RSA and EC")

    keys.create_key("rsa", "RSA", key_operations=["sign"])
    assert keys.get_key("rsa").key_operations == ["sign"]
    assert len(list(keys.list_properties_of_key_versions("rsa"))) == 2
    assert {"rsa", "oct", "imported-ec"} <= {p.name for p in keys.list_properties_of_keys()}
    assert keys.update_key_properties("rsa", key_operations=["verify"], tags={"a": "b"}).properties.tags == {"a": "b"}
    keys.begin_delete_key("rsa").wait()
    fails(ResourceNotFoundError, lambda: keys.get_key("rsa"), "KeyNotFound")
    assert "rsa" in {d.name for d in keys.list_deleted_keys()}
    assert keys.begin_recover_deleted_key("rsa").result().name == "rsa"
    assert keys.get_key("rsa").key_operations == ["verify"]
    step("keys: versions, list, update, delete, recover")


def check_certificates(certificates, secrets, keys):
    made = certificates.begin_create_certificate(
        "made-rsa",
        CertificatePolicy("Self", subject="CN=made.example", san_dns_names=["made.example"], validity_in_months=3),
    ).result()
    version = made.properties.version
    parsed = x509.load_der_x509_certificate(bytes(made.cer))
    assert parsed.subject.rfc4514_string() == "CN=made.example"
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["made.example"]
    assert bytes(made.properties.x509_thumbprint) == parsed.fingerprint(hashes.SHA1())
    secret = secrets.get_secret("made-rsa", version)
    assert secret.properties.content_type == "application/x-pkcs12" and secret.properties.key_id == made.key_id
    assert secret.properties.managed and made.secret_id.endswith(version)
    key, leaf, chain = pkcs12.load_key_and_certificates(base64.b64decode(secret.value), b"")
    assert leaf == parsed and not chain and spki(key.public_key()) == spki(parsed.public_key())
    public = keys.get_key("made-rsa", version)
    assert public.properties.managed and int.from_bytes(public.key.n, "big") == parsed.public_key().public_numbers().n
    step("certificates: create RSA, with PFX secret and key of the same version")

    for curve in ("P-256", "P-384", "P-521", "P-256K"):
        made = certificates.begin_create_certificate(
            f"made-{curve}",
            CertificatePolicy(
                "Self", subject="CN=ec.example", key_type="EC", key_curve_name=curve,
                content_type=CertificateContentType.pem,
            ),
        ).result()
        parsed = x509.load_der_x509_certificate(bytes(made.cer))
        parsed.verify_directly_issued_by(parsed)
        value = secrets.get_secret(f"made-{curve}").value.encode()
        assert value.startswith(b"-----BEGIN PRIVATE KEY-----")
        key = serialization.load_pem_private_key(value, None)
        assert spki(key.public_key()) == spki(parsed.public_key())
    step("certificates: create EC on every curve, with PEM secret, key first")

    root_key, middle_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = certificate("root", root_key, ca=True)
    middle = certificate("middle", middle_key, "root", root_key, ca=True)
    leaf = certificate("leaf", leaf_key, "middle", middle_key)
    pfx = pkcs12.serialize_key_and_certificates(
        b"name", leaf_key, leaf, [middle, root], serialization.BestAvailableEncryption(b"password")
    )
    imported = certificates.import_certificate("imported-pfx", pfx, password="password")
    assert bytes(imported.cer) == leaf.public_bytes(serialization.Encoding.DER)
    value = base64.b64decode(secrets.get_secret("imported-pfx").value)
    key, own, chain = pkcs12.load_key_and_certificates(value, b"")
    assert own == leaf and set(chain) == {middle, root} and spki(key.public_key()) == spki(leaf_key.public_key())
    fails(HttpResponseError, lambda: certificates.import_certificate("wrong", pfx, password="x"), "BadParameter")

    text = pem(root) + pem(middle) + pem(leaf) + pkcs8(leaf_key)
    policy = CertificatePolicy("Unknown", content_type=CertificateContentType.pem)
    imported = certificates.import_certificate("imported-pem", text, policy=policy)
    assert bytes(imported.cer) == leaf.public_bytes(serialization.Encoding.DER)
    value = secrets.get_secret("imported-pem").value.encode()
    assert set(x509.load_pem_x509_certificates(value)) == {root, middle, leaf}
    assert value.startswith(b"-----BEGIN PRIVATE KEY-----")
    step("certificates: import PFX with password and PEM, with chains")

    assert certificates.get_certificate_policy("imported-pem").content_type == "application/x-pem-file"
    assert certificates.get_certificate_operation("made-rsa").status == "completed"
    certificates.begin_create_certificate("made-rsa", CertificatePolicy.get_default()).wait()
    assert len(list(certificates.list_properties_of_certificate_versions("made-rsa"))) == 2
    assert certificates.get_certificate_version("made-rsa", version).properties.version == version
    assert "imported-pem" in {p.name for p in certificates.list_properties_of_certificates()}
    certificates.update_certificate_properties("made-rsa", version, enabled=False)
    fails(HttpResponseError, lambda: secrets.get_secret("made-rsa", version), "disabled secret")
    certificates.begin_delete_certificate("made-rsa").wait()
    fails(ResourceNotFoundError, lambda: certificates.get_certificate("made-rsa"), "CertificateNotFound")
    fails(ResourceNotFoundError, lambda: secrets.get_secret("made-rsa"))
    certificates.begin_recover_deleted_certificate("made-rsa").wait()
    assert secrets.get_secret("made-rsa").properties.managed
    step("certificates: policy, operation, versions, disable, delete, recover")


def check_credentials(app):
    client_id = app["clientId"]
    signing = rsa.generate_private_key(65537, 2048)
    issuer = "https://cluster.example/issuer"
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(signing.public_key()))
    control("PUT", "/issuers", {"issuer": issuer, "jwks": {"keys": [{**public, "kid": "k1", "use": "sig"}]}})
    subject = "system:serviceaccount:default:reader"
    control("POST", f"/identities/{client_id}/federations", {"issuer": issuer, "subject": subject})

    def assertion(**claims):
        now = int(time.time())
        body = {"iss": issuer, "sub": subject, "aud": "api://AzureADTokenExchange", "iat": now, "exp": now + 600}
        return jwt.encode({**body, **claims}, signing, "RS256", headers={"kid": "k1"})

    def reads(credential):
        assert clients(credential)[0].get_secret("plain").value == "three"

    reads(ClientAssertionCredential(TENANT, client_id, assertion, **entra_options()))
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(assertion())
        file.flush()
        reads(WorkloadIdentityCredential(
            tenant_id=TENANT, client_id=client_id, token_file_path=file.name, **entra_options()
        ))
    step("credentials: client assertion, workload identity")

    for claims, code in [
        ({"sub": "system:serviceaccount:default:other"}, "AADSTS700213"),
        ({"iss": "https://other.example"}, "AADSTS700211"),
        ({"aud": "api://other"}, "AADSTS700212"),
        ({"sub": subject.replace("reader", "Reader")}, "AADSTS7002138"),
        ({"exp": int(time.time()) - 60}, "AADSTS700024"),
    ]:
        wrong = ClientAssertionCredential(TENANT, client_id, lambda: assertion(**claims), **entra_options())
        fails(ClientAuthenticationError, lambda: wrong.get_token("https://vault.azure.net/.default"), code)
    forged = rsa.generate_private_key(65537, 2048)
    forge = lambda: jwt.encode(jwt.decode(assertion(), options={"verify_signature": False}), forged, "RS256",
                               headers={"kid": "k1"})
    wrong = ClientAssertionCredential(TENANT, client_id, forge, **entra_options())
    fails(ClientAuthenticationError, lambda: wrong.get_token("https://vault.azure.net/.default"), "AADSTS50013")
    for tenant, client, secret, code in [
        (TENANT, client_id, "wrong", "AADSTS7000215"),
        (TENANT, str(uuid.uuid4()), "x", "AADSTS700016"),
        (TENANT, client_id, "old-secret", "AADSTS7000222"),
    ]:
        wrong = ClientSecretCredential(tenant, client, secret, **entra_options())
        fails(ClientAuthenticationError, lambda: wrong.get_token("https://vault.azure.net/.default"), code)
    step("credentials: every mismatch has its own code")

    key = rsa.generate_private_key(65537, 2048)
    own = certificate("app", key)
    control("POST", f"/identities/{client_id}/certificates", {"pem": pem(own).decode()})
    reads(CertificateCredential(TENANT, client_id, certificate_data=pkcs8(key) + pem(own), **entra_options()))
    step("credentials: client certificate")

    os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = READY["imds"]
    control("PUT", f"/imds/{client_id}", {"assigned": "user"})
    reads(ManagedIdentityCredential(client_id=client_id))
    reads(ManagedIdentityCredential(identity_config={"object_id": app["objectId"]}))
    reads(ManagedIdentityCredential(identity_config={"resource_id": app["resourceId"]}))
    unknown = ManagedIdentityCredential(client_id=str(uuid.uuid4()))
    fails(Exception, lambda: unknown.get_token("https://vault.azure.net/.default"), "Identity not found")
    control("PUT", f"/imds/{client_id}", {"assigned": "system"})
    reads(ManagedIdentityCredential())
    control("DELETE", f"/imds/{client_id}")
    step("credentials: managed identity by every id, system-assigned, unknown")


def check_permissions(credential, app):
    vault = f"/vaults/{VAULT}"
    secrets = clients(credential)[0]
    control("PUT", f"{vault}/grants/{app['clientId']}", "get")
    assert secrets.get_secret("plain").value == "three"
    error = fails(HttpResponseError, lambda: list(secrets.list_properties_of_secret_versions("plain")), "Forbidden")
    assert error.status_code == 403 and error.error.innererror["code"] == "ForbiddenByRbac"
    control("PUT", vault, {"accessModel": "accessPolicy"})
    error = fails(HttpResponseError, lambda: secrets.set_secret("plain", "x"), "does not have secrets set permission")
    assert error.error.innererror["code"] == "AccessDenied"
    control("DELETE", f"{vault}/grants/{app['clientId']}")
    fails(HttpResponseError, lambda: secrets.get_secret("plain"), "does not have secrets get permission")
    control("PUT", f"{vault}/grants/{app['clientId']}", "all")
    control("PUT", vault, {"network": "firewall"})
    error = fails(HttpResponseError, lambda: secrets.get_secret("plain"), "Client address is not authorized")
    control("PUT", vault, {"network": "open"})
    step("permissions: get without list, both models, revoked, firewall")


def check_resilience(credential, app):
    secrets = clients(credential, retry_backoff_factor=0.01)[0]
    control("DELETE", "/counters")
    rule = {"service": "vault", "authorized": True, "fault": {"status": {"code": 429, "retryAfter": 0}},
            "extent": {"count": 2}}
    control("POST", "/faults", rule)
    assert secrets.get_secret("plain").value == "three"
    counters = control("GET", "/counters")
    assert counters["endpoints"]["vault.secrets.get"] == 3 and counters["statuses"]["vault.429"] == 2, counters
    assert counters["objects"][f"{VAULT}/secrets/plain"] == 3
    # The client sees its own token as spent once the services' clock is past it, which only the vault knows.
    control("PUT", "/clock", {"offset": 2 * 60 * 60})
    fails(HttpResponseError, lambda: secrets.get_secret("plain"), "expired")
    control("PUT", "/clock", {"offset": 0})
    control("DELETE", "/faults")
    step("resilience: throttled twice and then served; an expired token is refused")


def main():
    app = control("POST", "/identities", {
        "name": "sdk-check",
        "secrets": [{"value": "client-secret"}, {"value": "old-secret", "expires": 1}],
    })
    control("PUT", f"/vaults/{VAULT}")
    control("PUT", f"/vaults/{VAULT}/grants/{app['clientId']}", "all")
    credential = ClientSecretCredential(TENANT, app["clientId"], "client-secret", **entra_options())
    secrets, keys, certificates = clients(credential)
    check_secrets(secrets)
    check_keys(keys)
    check_certificates(certificates, secrets, keys)
    check_credentials(app)
    check_permissions(credential, app)
    check_resilience(credential, app)

    first = control("GET", "/vaults")[0]
    control("PUT", f"/vaults/{first}/grants/{app['clientId']}", "all")
    for host in ("localhost", "127.0.0.1"):
        plain, _, _ = clients(credential, f"https://{host}:{PORT}", verify_challenge_resource=False)
        plain.set_secret("by-address", host)
        assert plain.get_secret("by-address").value == host
    step("addresses: localhost and 127.0.0.1 are the first vault")
    for version in ("7.4", "7.6", "2025-07-01"):
        old = SecretClient(BY_NAME, credential, api_version=version, connection_verify=CA)
        assert old.get_secret("plain").value == "three"
    step("api-versions: older ones answer too")


if __name__ == "__main__":
    main()
