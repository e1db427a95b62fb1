package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// outage simulates one of a server: connections are dropped and new ones refused.
type outage struct {
	mu    sync.Mutex
	on    bool
	conns map[net.Conn]bool
}

func (o *outage) set(on bool) {
	o.mu.Lock()
	o.on = on
	var conns []net.Conn
	for c := range o.conns {
		if on {
			conns = append(conns, c)
		}
	}
	o.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

func (o *outage) listener(ln net.Listener) net.Listener { return &breakableListener{ln, o} }

type breakableListener struct {
	net.Listener
	o *outage
}

func (b *breakableListener) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tc := &trackedConn{Conn: c, o: b.o}
		b.o.mu.Lock()
		on := b.o.on
		if !on {
			if b.o.conns == nil {
				b.o.conns = map[net.Conn]bool{}
			}
			b.o.conns[tc] = true
		}
		b.o.mu.Unlock()
		if !on {
			return tc, nil
		}
		c.Close()
	}
}

type trackedConn struct {
	net.Conn
	o *outage
}

func (c *trackedConn) Close() error {
	c.o.mu.Lock()
	delete(c.o.conns, c)
	c.o.mu.Unlock()
	return c.Conn.Close()
}

// serveTLS serves the control protocol behind TLS with a certificate of the lab's own authority.
func (l *lab) serveTLS(h http.Handler) error {
	cert, err := serverCertificate(*flagPKI)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", *flagIP, *flagHTTPS))
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:      h,
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{cert}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // the noise upgrade is HTTP/1.1's
	}
	go srv.ServeTLS(l.outage.listener(ln), "", "")
	return nil
}

// serverCertificate loads the certificate for this address from dir; when there is none, it makes one and its authority.
func serverCertificate(dir string) (tls.Certificate, error) {
	file := func(name string) string { return filepath.Join(dir, name) }
	if cert, err := tls.LoadX509KeyPair(file("server.pem"), file("server.key")); err == nil {
		return cert, nil
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	ca := template("Postern lab authority", nil)
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage, ca.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template(*flagIP, net.ParseIP(*flagIP)), ca, &priv.PublicKey, caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return tls.Certificate{}, err
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{"ca.pem", "CERTIFICATE", caDER}, {"server.pem", "CERTIFICATE", der}, {"server.key", "PRIVATE KEY", keyDER}} {
		if err := os.WriteFile(file(f.name), pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			return tls.Certificate{}, err
		}
	}
	return tls.LoadX509KeyPair(file("server.pem"), file("server.key"))
}

// selfSigned returns a certificate for ip and the hex SHA-256 of its DER form.
func selfSigned(ip string) (tls.Certificate, string, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	t := template(ip, net.ParseIP(ip))
	der, err := x509.CreateCertificate(rand.Reader, t, t, &priv.PublicKey, priv)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv}, fmt.Sprintf("%x", sha256.Sum256(der)), nil
}

func template(name string, ip net.IP) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip != nil {
		t.IPAddresses = []net.IP{ip, net.IPv4(127, 0, 0, 1)}
	}
	return t
}
