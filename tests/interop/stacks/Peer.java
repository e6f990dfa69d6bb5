// A peer of a signedwire node, up to HELLO, with the JDK alone (17 or newer).
//
//   java Peer.java dial HOST PORT DID    connect to a node
//   java Peer.java accept                wait for one connection of a node
//
// Numbers in comments are sections of docs/protocol.md.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.IOException;
import java.math.BigInteger;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.security.AlgorithmParameters;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.SecureRandom;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.security.spec.ECPrivateKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Arrays;
import java.util.Base64;
import java.util.HexFormat;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

public final class Peer {
    static final HexFormat HEX = HexFormat.of();
    static final String ALPN = "signedwire/2";
    static final byte[] PROOF_LABEL = "signedwire/tls-leaf/1\0".getBytes(StandardCharsets.US_ASCII);
    static final byte[] SPKI_OF_ED25519 = HEX.parseHex("302a300506032b6570032100");
    static final byte[] SAN_START = HEX.parseHex("308199868196");
    static final BigInteger NULL_CA_KEY =
            new BigInteger("7369676e656477697265206e756c6c2043413a2070726f766573206e6f6e652f", 16);
    static final String NULL_CA = """
            MIIBUDCB96ADAgECAgEBMAoGCCqGSM49BAMCMB0xGzAZBgNVBAMMEnNpZ25lZHdp
            cmUgbnVsbCBDQTAgFw03MDAxMDEwMDAwMDBaGA85OTk5MTIzMTIzNTk1OVowHTEb
            MBkGA1UEAwwSc2lnbmVkd2lyZSBudWxsIENBMFkwEwYHKoZIzj0CAQYIKoZIzj0D
            AQcDQgAELI+Iv3hgeeTRWTS4dvQ35KhyUHxzBKtyFXFvz2T02oD8OaqDeITev4VM
            Kqf8+XF7g8bw2VGkmOi4C0G5gkCIFqMmMCQwEgYDVR0TAQH/BAgwBgEB/wIBADAO
            BgNVHQ8BAf8EBAMCAgQwCgYIKoZIzj0EAwIDSAAwRQIhAOfxVjXyLUH2cZq5Ga5U
            nJFVl78utgm7saZZhqOI2YTyAiAMsE5SlbpWSQzH5GpyCReW6WkHLWQDd4kHg+Rc
            3zHP+A==
            """;

    public static void main(String[] args) {
        try {
            run(args);
        } catch (Exception error) {
            System.err.println(error);
            System.exit(1);
        }
        System.exit(0);
    }

    static void run(String[] args) throws Exception {
        KeyPair identity = KeyPairGenerator.getInstance("Ed25519").generateKeyPair();
        System.out.println("us " + HEX.formatHex(didOf(identity)));
        SSLContext context = newContext(identity);
        try (SSLSocket socket = connect(args, context)) {
            socket.setSoTimeout(10_000);
            socket.startHandshake();
            byte[] did = provenDid(socket);
            if (args[0].equals("dial") && !HEX.formatHex(did).equals(args[3])) {
                throw new IOException("another DID answered");
            }
            System.out.println("peer " + HEX.formatHex(did));
            exchangeHello(socket);
        }
    }

    static SSLSocket connect(String[] args, SSLContext context) throws IOException {
        if (args[0].equals("dial")) {
            // Layered over a plain socket: there is no way to a server name (SNI).
            Socket plain = new Socket(InetAddress.getByName(args[1]), Integer.parseInt(args[2]));
            return configured((SSLSocket) context.getSocketFactory()
                    .createSocket(plain, null, plain.getPort(), true));
        }
        InetAddress loopback = InetAddress.getByName("127.0.0.1");
        try (SSLServerSocket listener = (SSLServerSocket)
                context.getServerSocketFactory().createServerSocket(0, 1, loopback)) {
            System.out.println("port " + listener.getLocalPort());
            SSLSocket socket = configured((SSLSocket) listener.accept());
            socket.setNeedClientAuth(true);
            return socket;
        }
    }

    static SSLSocket configured(SSLSocket socket) {
        var parameters = socket.getSSLParameters();
        parameters.setProtocols(new String[] {"TLSv1.3"});
        parameters.setApplicationProtocols(new String[] {ALPN});
        socket.setSSLParameters(parameters);
        return socket;
    }

    // Returns a context for one connection. With a new one each time nothing can be resumed,
    // although Java's server sends tickets (2.2).
    static SSLContext newContext(KeyPair identity) throws Exception {
        var generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(new ECGenParameterSpec("secp256r1"));
        KeyPair key = generator.generateKeyPair();
        var store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        Certificate[] chain = {makeCertificate(identity, key)};
        store.setKeyEntry("us", key.getPrivate(), new char[0], chain);
        var keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(store, new char[0]);
        SSLContext context = SSLContext.getInstance("TLSv1.3");
        context.init(keys.getKeyManagers(), new TrustManager[] {new TrustAll()}, null);
        return context;
    }

    // The issuer proves nothing (2.3). Java adds checks to an X509TrustManager, not to this.
    static final class TrustAll extends X509ExtendedTrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String kind, Socket socket) {}
        public void checkServerTrusted(X509Certificate[] chain, String kind, Socket socket) {}
        public void checkClientTrusted(X509Certificate[] chain, String kind, SSLEngine engine) {}
        public void checkServerTrusted(X509Certificate[] chain, String kind, SSLEngine engine) {}
        public void checkClientTrusted(X509Certificate[] chain, String kind) {}
        public void checkServerTrusted(X509Certificate[] chain, String kind) {}
        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }

    // -- our certificate (2.2) with our DID proof (3) ----------------------------------------

    static X509Certificate makeCertificate(KeyPair identity, KeyPair key) throws Exception {
        byte[] spki = key.getPublic().getEncoded();
        long expiry = ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now().plus(7, ChronoUnit.DAYS));
        byte[] start = littleEndian(40).put(didOf(identity)).putLong(expiry).array();
        var signer = Signature.getInstance("Ed25519");
        signer.initSign(identity.getPrivate());
        signer.update(joined(PROOF_LABEL, start, spki));
        String uri = uriOf(joined(start, signer.sign()));

        byte[] algorithm = HEX.parseHex("300a06082a8648ce3d040302"); // ecdsa-with-SHA256
        byte[] serial = new byte[16];
        new SecureRandom().nextBytes(serial);
        serial[0] = (byte) (serial[0] & 0x7f | 0x40);
        byte[] validity = der(0x30, der(0x17, ascii("700101000000Z")), der(0x18, ascii("99991231235959Z")));
        byte[] names = der(0x30, HEX.parseHex("0603551d11"), der(0x04, SAN_START, ascii(uri)));
        byte[] tbs = der(0x30, HEX.parseHex("a003020102"), der(0x02, serial), algorithm,
                name("signedwire null CA"), validity, name("signedwire"), spki,
                der(0xa3, der(0x30, names)));

        var curve = AlgorithmParameters.getInstance("EC");
        curve.init(new ECGenParameterSpec("secp256r1"));
        var spec = new ECPrivateKeySpec(NULL_CA_KEY, curve.getParameterSpec(ECParameterSpec.class));
        var issuer = Signature.getInstance("SHA256withECDSA");
        issuer.initSign(KeyFactory.getInstance("EC").generatePrivate(spec));
        issuer.update(tbs);
        byte[] certificate = der(0x30, tbs, algorithm, der(0x03, new byte[1], issuer.sign()));
        return (X509Certificate) CertificateFactory.getInstance("X.509")
                .generateCertificate(new ByteArrayInputStream(certificate));
    }

    static byte[] der(int tag, byte[]... parts) {
        byte[] body = joined(parts);
        int size = body.length;
        byte[] head = size < 128 ? new byte[] {(byte) tag, (byte) size}
                : size < 256 ? new byte[] {(byte) tag, (byte) 0x81, (byte) size}
                : new byte[] {(byte) tag, (byte) 0x82, (byte) (size >> 8), (byte) size};
        return joined(head, body);
    }

    static byte[] name(String text) {
        return der(0x30, der(0x31, der(0x30, HEX.parseHex("0603550403"), der(0x0c, ascii(text)))));
    }

    static String uriOf(byte[] proof) {
        return "signedwire:" + Base64.getUrlEncoder().withoutPadding().encodeToString(proof);
    }

    static byte[] didOf(KeyPair identity) {
        byte[] spki = identity.getPublic().getEncoded();
        return Arrays.copyOfRange(spki, SPKI_OF_ED25519.length, spki.length);
    }

    // -- the DID proof of the other side -----------------------------------------------------

    // Checks 1 to 6 of section 3. Nothing is resumed: see newContext().
    static byte[] provenDid(SSLSocket socket) throws Exception {
        var session = socket.getSession();
        if (!session.getProtocol().equals("TLSv1.3") || !ALPN.equals(socket.getApplicationProtocol())) {
            throw new IOException("not TLS 1.3 with " + ALPN);
        }
        Certificate[] chain = session.getPeerCertificates();
        boolean isLong = chain.length == 2
                && Arrays.equals(chain[1].getEncoded(), Base64.getMimeDecoder().decode(NULL_CA));
        if (chain.length != 1 && !isLong || chain[0].getEncoded().length > 2048) {
            throw new IOException("not one certificate of at most 2048 bytes");
        }
        byte[] proof = proofOf((X509Certificate) chain[0]);
        byte[] did = Arrays.copyOf(proof, 32);
        byte[] signature = Arrays.copyOfRange(proof, 40, 104);
        if (!isDid(did)) {
            throw new IOException("the proof names no DID");
        }
        var verifier = Signature.getInstance("Ed25519");
        verifier.initVerify(KeyFactory.getInstance("Ed25519")
                .generatePublic(new X509EncodedKeySpec(joined(SPKI_OF_ED25519, did))));
        verifier.update(joined(PROOF_LABEL, Arrays.copyOf(proof, 40), chain[0].getPublicKey().getEncoded()));
        byte[] neutral = new byte[32];
        neutral[0] = 1;
        if (Arrays.equals(neutral, Arrays.copyOf(signature, 32)) || !verifier.verify(signature)) {
            throw new IOException("the proof is not signed by its DID");
        }
        long expiry = ByteBuffer.wrap(proof).order(ByteOrder.LITTLE_ENDIAN).getLong(32);
        long earliest = ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now().minus(1, ChronoUnit.DAYS));
        if (Long.compareUnsigned(expiry, earliest) < 0) {
            throw new IOException("the proof has expired");
        }
        return did;
    }

    static byte[] proofOf(X509Certificate certificate) throws IOException {
        byte[] value = certificate.getExtensionValue("2.5.29.17"); // in an OCTET STRING
        byte[] start = joined(HEX.parseHex("04819c"), SAN_START, ascii("signedwire:"));
        if (value != null && value.length == 159) {
            String text = new String(value, start.length, 139, StandardCharsets.ISO_8859_1);
            try {
                byte[] proof = Base64.getUrlDecoder().decode(text);
                if (Arrays.equals(value, der(0x04, SAN_START, ascii(uriOf(proof))))) {
                    return proof;
                }
            } catch (IllegalArgumentException error) {
                // not base64url
            }
        }
        throw new IOException("the certificate has no DID proof as its only name");
    }

    static final BigInteger ONE = BigInteger.ONE;
    static final BigInteger P = ONE.shiftLeft(255).subtract(BigInteger.valueOf(19));
    static final BigInteger ORDER =
            ONE.shiftLeft(252).add(new BigInteger("27742317777372353535851937790883648493"));
    static final BigInteger D = over(BigInteger.valueOf(-121665), BigInteger.valueOf(121666));

    static BigInteger over(BigInteger a, BigInteger b) {
        return a.multiply(b.modPow(P.subtract(BigInteger.TWO), P)).mod(P);
    }

    // Whether the bytes are the canonical encoding of a point of prime order (1.1).
    static boolean isDid(byte[] raw) {
        byte[] bigEndian = new byte[32];
        for (int i = 0; i < 32; i++) {
            bigEndian[i] = raw[31 - i];
        }
        BigInteger encoded = new BigInteger(1, bigEndian);
        boolean sign = encoded.testBit(255);
        BigInteger y = encoded.clearBit(255);
        if (y.compareTo(P) >= 0) {
            return false;
        }
        BigInteger yy = y.multiply(y);
        BigInteger xx = over(yy.subtract(ONE), D.multiply(yy).add(ONE));
        BigInteger x = xx.modPow(P.add(BigInteger.valueOf(3)).shiftRight(3), P);
        if (!x.multiply(x).mod(P).equals(xx)) {
            x = x.multiply(BigInteger.TWO.modPow(P.subtract(ONE).shiftRight(2), P)).mod(P);
        }
        if (!x.multiply(x).mod(P).equals(xx) || x.signum() == 0) {
            return false;
        }
        BigInteger[] point = {x.testBit(0) == sign ? x : P.subtract(x), y, ONE};
        BigInteger[] product = {BigInteger.ZERO, ONE, ONE};
        for (int bit = 252; bit >= 0; bit--) {
            product = sum(product, product);
            if (ORDER.testBit(bit)) {
                product = sum(product, point);
            }
        }
        return product[0].signum() == 0 && product[1].equals(product[2]);
    }

    // The sum of two points; a point is x·z, y·z and z.
    static BigInteger[] sum(BigInteger[] s, BigInteger[] t) {
        BigInteger a = s[2].multiply(t[2]).mod(P);
        BigInteger b = a.multiply(a);
        BigInteger c = s[0].multiply(t[0]).mod(P);
        BigInteger e = s[1].multiply(t[1]).mod(P);
        BigInteger f = D.multiply(c).mod(P).multiply(e);
        BigInteger minus = b.subtract(f).mod(P);
        BigInteger plus = b.add(f).mod(P);
        BigInteger cross = s[0].add(s[1]).multiply(t[0].add(t[1])).subtract(c).subtract(e);
        return new BigInteger[] {
            a.multiply(minus).multiply(cross).mod(P),
            a.multiply(plus).multiply(e.add(c)).mod(P),
            minus.multiply(plus).mod(P),
        };
    }

    // -- HELLO (4, 5.1) ----------------------------------------------------------------------

    static void exchangeHello(SSLSocket socket) throws IOException {
        long epoch = ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now());
        ByteBuffer body = littleEndian(244).putShort((short) 2).putShort((short) 2)
                .putLong(0).putInt(1 << 20).putInt(1 << 16).putLong(epoch).putLong(epoch);
        body.position(116);
        for (int stream = 0; stream < 8; stream++) {
            body.putLong(4096).putLong(1 << 23); // credit
        }
        socket.getOutputStream().write(joined(new byte[] {0, 0, 0, (byte) 245, 1}, body.array()));
        var in = new DataInputStream(socket.getInputStream());
        int size = in.readInt();
        if (size < 245 || size > 16380 || in.readByte() != 1) {
            throw new IOException("the first frame is not a HELLO");
        }
        byte[] hello = new byte[size - 1];
        in.readFully(hello);
        ByteBuffer read = ByteBuffer.wrap(hello).order(ByteOrder.LITTLE_ENDIAN);
        System.out.println("hello " + read.getLong(20));
        System.in.readAllBytes();
    }

    static ByteBuffer littleEndian(int size) {
        return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
    }

    static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    static byte[] joined(byte[]... parts) {
        var out = new ByteArrayOutputStream();
        for (byte[] part : parts) {
            out.writeBytes(part);
        }
        return out.toByteArray();
    }
}
