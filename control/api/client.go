package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
)

// maxAnswer bounds what a client reads: a hundred thousand sessions.
const maxAnswer = 128 << 20

// Client asks a Server.
type Client struct {
	path string
	http http.Client
}

// NewClient makes a client of the server at a socket. It connects with the
// first request.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	return c
}

// Close closes the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get asks for what, such as "sessions", and decodes the answer into v.
func (c *Client) Get(ctx context.Context, what string, q url.Values, v any) error {
	return c.do(ctx, http.MethodGet, what, q, nil, v)
}

// Post has something done, with the object in, and decodes the answer into v.
func (c *Client) Post(ctx context.Context, what string, in, v any) error {
	return c.do(ctx, http.MethodPost, what, nil, in, v)
}

func (c *Client) do(ctx context.Context, method, what string, q url.Values, in, v any) error {
	u := url.URL{Scheme: "http", Host: "xpptp", Path: "/v1/" + what, RawQuery: q.Encode()}
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), &body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if resp.StatusCode != http.StatusOK {
		var e struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(b, &e) != nil || e.Error == "" {
			e.Error = resp.Status
		}
		return errors.New(e.Error)
	}
	return json.Unmarshal(b, v)
}

// explain says what an error of the connection comes from.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no xpptp listens on %s: is it running, and with this control.socket?", c.path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: permission denied: only the user that xpptp runs as, root, may open it", c.path)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%s: %w", c.path, err)
}
