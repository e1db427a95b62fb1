package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"tailscale.com/client/local"
	"tailscale.com/tsnet"
)

// clients keeps tsnet nodes of several users running and lets others use them: as an HTTP proxy (CONNECT, the user
// in Proxy-Authorization, alice without), by POST /fetch for one observed request, by POST /steady for requests that
// go on until DELETE /steady/{id}, by POST /nodes/{name}/worn-keys for new keys of WireGuard, and by POST
// /nodes/{name}/new-key for a login anew.
func clients(ctx context.Context) {
	c := &clientSet{nodes: map[string]*clientNode{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") })
	mux.HandleFunc("POST /fetch", c.fetch)
	mux.HandleFunc("POST /steady", c.startSteady)
	mux.HandleFunc("DELETE /steady/{id}", c.endSteady)
	mux.HandleFunc("DELETE /nodes/{name}", c.remove)
	mux.HandleFunc("POST /nodes/{name}/worn-keys", c.wearOut)
	mux.HandleFunc("POST /nodes/{name}/new-key", c.logInAnew)
	srv := &http.Server{Addr: *flagListen, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			c.tunnel(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})}
	go func() {
		<-ctx.Done()
		os.Exit(0) // not s.Close(): it can hang while connections are open
	}()
	log.Fatal(srv.ListenAndServe())
}

type clientSet struct {
	mu       sync.Mutex
	nodes    map[string]*clientNode
	steadies []*steady
}

type clientNode struct {
	once sync.Once
	s    *tsnet.Server
	lc   *local.Client
	err  error
}

// node returns the running node of a user, started at its first use. A name like "alice-phone" is a second one of alice.
func (c *clientSet) node(name string) (*clientNode, error) {
	c.mu.Lock()
	n := c.nodes[name]
	if n == nil {
		n = &clientNode{}
		c.nodes[name] = n
	}
	c.mu.Unlock()
	n.once.Do(func() {
		user, _, second := strings.Cut(name, "-")
		host := name
		if !second {
			host = name + "-laptop"
		}
		n.s = &tsnet.Server{Hostname: host, Dir: filepath.Join(*flagDir, name), ControlURL: *flagControl,
			AuthKey: cmp.Or(*flagKey, "tskey-auth-"+user), UserLogf: log.Printf}
		if *flagVerbose {
			n.s.Logf = log.Printf
		}
		if n.err = os.MkdirAll(n.s.Dir, 0o700); n.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, n.err = n.s.Up(ctx); n.err == nil {
			n.lc, n.err = n.s.LocalClient()
		}
	})
	if n.err != nil { // the next one tries again
		c.mu.Lock()
		if c.nodes[name] == n {
			delete(c.nodes, name)
		}
		c.mu.Unlock()
		if n.s != nil {
			go n.s.Close()
		}
	}
	return n, n.err
}

func (c *clientSet) remove(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	c.mu.Lock()
	n := c.nodes[name]
	delete(c.nodes, name)
	c.mu.Unlock()
	if n == nil || n.lc == nil {
		http.Error(w, "no such node", 404)
		return
	}
	n.lc.Logout(r.Context())
	go n.s.Close()
	os.RemoveAll(filepath.Join(*flagDir, name))
}

func (c *clientSet) tunnel(w http.ResponseWriter, r *http.Request) {
	user := "alice"
	p := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	if u, _, ok := p.BasicAuth(); ok {
		user = u
	}
	n, err := c.node(user)
	var up net.Conn
	if err == nil {
		up, err = n.s.Dial(r.Context(), "tcp", r.Host)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	down, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n")
	done := make(chan struct{}, 2)
	go func() { io.Copy(up, buf); done <- struct{}{} }()
	go func() { io.Copy(down, up); done <- struct{}{} }()
	<-done
}

type fetchRequest struct {
	As        string
	URL       string
	Method    string
	Headers   [][2]string // sent as they are, one line each
	Trailers  [][2]string
	Body      string
	Proto     string   // h1 (default), h2, or raw: Raw is written as it is
	Raw       string   //
	WebSocket []string // messages to send one after the other, each answered by one
	TimeoutMS int
	Insecure  bool // do not verify the certificate
	Addr      string
}

type fetchResult struct {
	Status   int              `json:"status"`
	Proto    string           `json:"proto"`
	Headers  [][2]string      `json:"headers"`
	Trailers [][2]string      `json:"trailers"`
	Body     string           `json:"body"` // the first MiB
	Bytes    int              `json:"bytes"`
	Chunks   []chunk          `json:"chunks"`
	Messages []string         `json:"messages,omitempty"`
	Path     string           `json:"path"`
	Cert     *certificate     `json:"cert"`
	TimingMS map[string]int64 `json:"timingMs"` // since the start: dialed, secured, firstByte, done
	Error    string           `json:"error,omitempty"`
}

type chunk struct {
	MS   int64  `json:"ms"`
	Text string `json:"text"`
}

type certificate struct {
	Names    []string  `json:"names"`
	Issuer   string    `json:"issuer"`
	NotAfter time.Time `json:"notAfter"`
}

// fetch does one request over a new connection and reports all that a test may want to know of it.
func (c *clientSet) fetch(w http.ResponseWriter, r *http.Request) {
	req := fetchRequest{As: "alice", Method: "GET", Proto: "h1", TimeoutMS: 15000}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	n, err := c.node(req.As)
	if err != nil {
		http.Error(w, fmt.Sprintf("node of %s: %v", req.As, err), 502)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(req.TimeoutMS)*time.Millisecond)
	defer cancel()
	f := &fetching{n: n, req: req, start: time.Now(), out: fetchResult{TimingMS: map[string]int64{}}}
	if err := f.run(ctx); err != nil {
		f.out.Error = err.Error()
	}
	f.mark("done")
	f.out.Path = n.path(f.remote)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(f.out)
}

type fetching struct {
	n      *clientNode
	req    fetchRequest
	start  time.Time
	remote string
	out    fetchResult
}

func (f *fetching) mark(what string) { f.out.TimingMS[what] = time.Since(f.start).Milliseconds() }

func (f *fetching) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if f.req.Addr != "" {
		addr = f.req.Addr
	}
	conn, err := f.n.s.Dial(ctx, network, addr)
	if err == nil {
		f.remote = conn.RemoteAddr().String()
		f.mark("dialed")
	}
	return conn, err
}

func (f *fetching) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{InsecureSkipVerify: f.req.Insecure, NextProtos: []string{"http/1.1"}}
	if f.req.Proto == "h2" {
		cfg.NextProtos = []string{"h2"}
	}
	if *flagCA == "" {
		cfg.InsecureSkipVerify = true
		return cfg, nil
	}
	pem, err := os.ReadFile(*flagCA) // at each request: the ACME server makes a new root when it starts
	if err != nil {
		return nil, err
	}
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AppendCertsFromPEM(pem)
	return cfg, nil
}

func (f *fetching) run(ctx context.Context) error {
	cfg, err := f.tlsConfig()
	if err != nil {
		return err
	}
	if f.req.Proto == "raw" {
		return f.runRaw(ctx, cfg)
	}
	tr := &http.Transport{DialContext: f.dial, TLSClientConfig: cfg, DisableCompression: true, ForceAttemptHTTP2: f.req.Proto == "h2"}
	defer tr.CloseIdleConnections()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(st tls.ConnectionState, err error) {
			if err == nil {
				f.secured(st)
			}
		},
		GotFirstResponseByte: func() { f.mark("firstByte") },
	})
	if f.req.WebSocket != nil {
		return f.runWebSocket(ctx, tr)
	}
	var body io.Reader = strings.NewReader(f.req.Body)
	if len(f.req.Trailers) > 0 {
		body = io.MultiReader(body) // of unknown length: trailers need it
	}
	r, err := http.NewRequestWithContext(ctx, f.req.Method, f.req.URL, body)
	if err != nil {
		return err
	}
	for _, h := range f.req.Headers {
		if strings.EqualFold(h[0], "host") {
			r.Host = h[1]
			continue
		}
		r.Header[h[0]] = append(r.Header[h[0]], h[1]) // not Add: the casing stays
	}
	for _, h := range f.req.Trailers {
		if r.Trailer == nil {
			r.Trailer = http.Header{}
		}
		r.Trailer[h[0]] = append(r.Trailer[h[0]], h[1])
	}
	res, err := tr.RoundTrip(r)
	if err != nil {
		return err
	}
	return f.read(res)
}

func (f *fetching) runRaw(ctx context.Context, cfg *tls.Config) error {
	r, err := http.NewRequest(f.req.Method, f.req.URL, nil)
	if err != nil {
		return err
	}
	port := map[string]string{"http": "80", "https": "443"}[r.URL.Scheme]
	if p := r.URL.Port(); p != "" {
		port = p
	}
	conn, err := f.dial(ctx, "tcp", net.JoinHostPort(r.URL.Hostname(), port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if r.URL.Scheme == "https" {
		cfg.ServerName = r.URL.Hostname()
		tc := tls.Client(conn, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			return err
		}
		f.secured(tc.ConnectionState())
		conn = tc
	}
	if _, err := io.WriteString(conn, f.req.Raw); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return err
	}
	f.mark("firstByte")
	return f.read(res)
}

func (f *fetching) runWebSocket(ctx context.Context, tr http.RoundTripper) error {
	h := http.Header{}
	for _, l := range f.req.Headers {
		h[l[0]] = append(h[l[0]], l[1])
	}
	ws, res, err := websocket.Dial(ctx, f.req.URL, &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}, HTTPHeader: h})
	if res != nil {
		f.out.Status, f.out.Proto, f.out.Headers = res.StatusCode, res.Proto, lines(res.Header)
	}
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	for _, m := range f.req.WebSocket {
		if err := ws.Write(ctx, websocket.MessageText, []byte(m)); err != nil {
			return err
		}
		_, b, err := ws.Read(ctx)
		if err != nil {
			return err
		}
		f.out.Messages = append(f.out.Messages, string(b))
	}
	return ws.Close(websocket.StatusNormalClosure, "")
}

func (f *fetching) secured(st tls.ConnectionState) {
	f.mark("secured")
	if len(st.PeerCertificates) > 0 {
		leaf := st.PeerCertificates[0]
		f.out.Cert = &certificate{Names: leaf.DNSNames, Issuer: leaf.Issuer.CommonName, NotAfter: leaf.NotAfter}
	}
}

func (f *fetching) read(res *http.Response) error {
	defer res.Body.Close()
	f.out.Status, f.out.Proto, f.out.Headers = res.StatusCode, res.Proto, lines(res.Header)
	var kept bytes.Buffer
	buf := make([]byte, 64<<10)
	for {
		n, err := res.Body.Read(buf)
		f.out.Bytes += n
		if kept.Len() < 1<<20 {
			kept.Write(buf[:n])
		}
		if n > 0 && len(f.out.Chunks) < 1000 {
			f.out.Chunks = append(f.out.Chunks, chunk{time.Since(f.start).Milliseconds(), string(buf[:min(n, 200)])})
		}
		if err != nil {
			f.out.Body, f.out.Trailers = kept.String(), lines(res.Trailer)
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("body: %w", err)
		}
	}
}

// path tells how packets travel to the node with that address: a UDP address, or a DERP region.
func (n *clientNode) path(remote string) string {
	addr, err := netip.ParseAddrPort(remote)
	if err != nil {
		return ""
	}
	st, err := n.lc.Status(context.Background())
	if err != nil {
		return err.Error()
	}
	for _, p := range st.Peer {
		for _, ip := range p.TailscaleIPs {
			if ip != addr.Addr().Unmap() {
				continue
			}
			if p.CurAddr != "" {
				return "direct " + p.CurAddr
			}
			return "derp " + p.Relay
		}
	}
	return "?"
}

func lines(h http.Header) [][2]string {
	out := [][2]string{}
	for k, vs := range h {
		for _, v := range vs {
			out = append(out, [2]string{k, v})
		}
	}
	return out
}
