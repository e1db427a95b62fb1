package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// steadyRequest asks for requests that go on over kept connections.
type steadyRequest struct {
	As          string
	URL         string
	Connections int
	PauseMS     int
	TimeoutMS   int
}

// steadyResult is what became of them.
type steadyResult struct {
	Requests  int             `json:"requests"`
	SlowestMS int64           `json:"slowestMs"` // of those that were answered
	Failures  []steadyFailure `json:"failures"`
}

// steadyFailure is a request without an answer, or a connection that could not be made for one. Times are Unix
// milliseconds.
type steadyFailure struct {
	Connection int    `json:"connection"`
	Started    int64  `json:"started"`
	Ended      int64  `json:"ended"`
	Error      string `json:"error"`
}

type steady struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	out    steadyResult
}

// startSteady answers with an ID.
func (c *clientSet) startSteady(w http.ResponseWriter, r *http.Request) {
	req := steadyRequest{As: "alice", Connections: 1, PauseMS: 20, TimeoutMS: 20000}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	n, err := c.node(req.As)
	if err != nil {
		http.Error(w, fmt.Sprintf("node of %s: %v", req.As, err), 502)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &steady{cancel: cancel, out: steadyResult{Failures: []steadyFailure{}}}
	for i := range req.Connections {
		s.wg.Go(func() { s.keep(ctx, n, req, i) })
	}
	c.mu.Lock()
	c.steadies = append(c.steadies, s)
	id := len(c.steadies) - 1
	c.mu.Unlock()
	json.NewEncoder(w).Encode(id)
}

// endSteady ends it and tells what became of it.
func (c *clientSet) endSteady(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	c.mu.Lock()
	known := err == nil && id >= 0 && id < len(c.steadies)
	var s *steady
	if known {
		s = c.steadies[id]
	}
	c.mu.Unlock()
	if !known {
		http.Error(w, "no such load", 404)
		return
	}
	s.cancel()
	s.wg.Wait()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(s.out)
}

// keep sends one request after the other over one connection; a new one is made when that has ended.
func (s *steady) keep(ctx context.Context, n *clientNode, req steadyRequest, connection int) {
	k := &kept{n: n, req: req}
	defer k.close()
	for ctx.Err() == nil {
		started := time.Now()
		err := k.request(ctx)
		ended := time.Now()
		if ctx.Err() != nil {
			return // it may have ended with us
		}
		s.mu.Lock()
		s.out.Requests++
		if err == nil {
			s.out.SlowestMS = max(s.out.SlowestMS, ended.Sub(started).Milliseconds())
		} else {
			s.out.Failures = append(s.out.Failures, steadyFailure{connection, started.UnixMilli(), ended.UnixMilli(), err.Error()})
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(req.PauseMS) * time.Millisecond):
		}
	}
}

// kept is a connection that is used again and again.
type kept struct {
	n    *clientNode
	req  steadyRequest
	conn net.Conn
	br   *bufio.Reader
}

func (k *kept) close() {
	if k.conn != nil {
		k.conn.Close()
		k.conn = nil
	}
}

func (k *kept) request(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(k.req.TimeoutMS)*time.Millisecond)
	defer cancel()
	r, err := http.NewRequest("GET", k.req.URL, nil)
	if err != nil {
		return err
	}
	if k.conn != nil && k.ended() {
		k.close()
	}
	if k.conn == nil {
		if err := k.dial(ctx, r); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	deadline, _ := ctx.Deadline()
	k.conn.SetDeadline(deadline)
	res, err := k.exchange(r)
	if err != nil {
		k.close()
		return err
	}
	if res.Close {
		k.close()
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("status %s", res.Status)
	}
	return nil
}

// ended tells whether the server has closed the connection, as servers may between two requests.
func (k *kept) ended() bool {
	k.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := k.br.Peek(1)
	var late net.Error
	return !errors.As(err, &late) || !late.Timeout()
}

func (k *kept) dial(ctx context.Context, r *http.Request) error {
	port := cmp.Or(r.URL.Port(), map[string]string{"http": "80", "https": "443"}[r.URL.Scheme])
	conn, err := k.n.s.Dial(ctx, "tcp", net.JoinHostPort(r.URL.Hostname(), port))
	if err != nil {
		return err
	}
	if r.URL.Scheme == "https" {
		cfg, err := (&fetching{n: k.n}).tlsConfig()
		if err != nil {
			conn.Close()
			return err
		}
		cfg.ServerName = r.URL.Hostname()
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return err
		}
		conn = secure
	}
	k.conn, k.br = conn, bufio.NewReader(conn)
	return nil
}

func (k *kept) exchange(r *http.Request) (*http.Response, error) {
	if err := r.Write(k.conn); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(k.br, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res, err
}
