// Follows a stream by github.com/r3labs/sse/v2: interop URL
//
// Says what it sees, a line of JSON for each: see tests/interop.rs.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/r3labs/sse/v2"
	"gopkg.in/cenkalti/backoff.v1"
)

type line struct {
	Saw    string  `json:"saw"`
	Type   string  `json:"type,omitempty"`
	ID     string  `json:"id,omitempty"`
	Data   *string `json:"data,omitempty"`
	Status int     `json:"status,omitempty"`
	Why    string  `json:"why,omitempty"`
}

func say(what line) {
	text, _ := json.Marshal(what)
	fmt.Println(string(text))
}

// final is an answer that will not be another one the next time.
type final struct{ status int }

func (f final) Error() string { return http.StatusText(f.status) }

func main() {
	// An event may have 64 KiB of data (limits.event_bytes); the 64 KiB that the library takes by itself are for the whole frame.
	client := sse.NewClient(os.Args[1], sse.ClientMaxBufferSize(1<<20))
	// One attempt at a time: its own way of coming back gives up after 15 minutes, and waits longer after each success, too.
	client.ReconnectStrategy = &backoff.StopBackOff{}
	over := false
	client.ResponseValidator = func(_ *sse.Client, response *http.Response) error {
		switch response.StatusCode {
		case http.StatusOK:
			say(line{Saw: "open"})
			return nil
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			response.Body.Close()
			return errors.New(response.Status)
		}
		response.Body.Close()
		return final{response.StatusCode}
	}
	// What is whole: the library hands out the beginning of an event that was cut, too, and takes its id as seen.
	var cursor, retry = []byte(nil), 3 * time.Second
	whole := func(event *sse.Event) bool {
		var envelope struct{ ID, Event, Data string }
		if bytes.HasPrefix(event.Event, []byte("$")) {
			// The data of control events is JSON, or nothing.
			return len(event.Data) == 0 || json.Valid(event.Data)
		}
		if json.Unmarshal(event.Data, &envelope) != nil || envelope.ID != string(event.ID) {
			return false
		}
		event.Data, event.Event = []byte(envelope.Data), []byte(envelope.Event)
		return true
	}
	for !over {
		err := client.SubscribeRaw(func(event *sse.Event) {
			nothing := len(event.Event) == 0 && len(event.Data) == 0 // what it makes of a keepalive
			if over || nothing || !whole(event) {
				client.LastEventID.Store(cursor)
				return
			}
			if ms, err := strconv.Atoi(string(event.Retry)); err == nil {
				retry = time.Duration(ms) * time.Millisecond
			}
			cursor = event.ID
			data := string(event.Data)
			say(line{Saw: "event", Type: string(event.Event), ID: string(event.ID), Data: &data})
			over = string(event.Event) == "$end"
		})
		var refused final
		if over {
			say(line{Saw: "over", Why: "left"})
		} else if errors.As(err, &refused) {
			over = true
			say(line{Saw: "over", Status: refused.status, Why: err.Error()})
		} else {
			// No error is a polite end, after which it does not come back by itself.
			say(line{Saw: "cut", Why: fmt.Sprint(err)})
			time.Sleep(retry)
		}
	}
}
