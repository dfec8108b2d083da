package api

import (
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// DescribeConfigs: v1 synonyms, v3 types and documentation, v4 flexible. Topics
// and this broker are described.
func init() {
	register(kmsg.DescribeConfigs, endpoint{min: 1, max: 4, serve: decoded((*Server).describeConfigs), shape: shape{
		arr(num(1), str(), listOf(str())), num(1), num(1).from(3),
	}})
}

func (s *Server) describeConfigs(r *wire.Request, req *kmsg.DescribeConfigsRequest) {
	resp := kmsg.NewPtrDescribeConfigsResponse()
	for _, want := range req.Resources {
		rr := kmsg.NewDescribeConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = want.ResourceType, want.ResourceName
		configs, err := s.configs(want)
		if err != nil {
			rr.ErrorCode, rr.ErrorMessage = s.code(r, err), ptr(err.Error())
		}
		for _, c := range configs {
			if want.ConfigNames != nil && !slices.Contains(want.ConfigNames, c.Name) {
				continue
			}
			if req.IncludeSynonyms {
				syn := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
				syn.Name, syn.Value, syn.Source = c.Name, c.Value, c.Source
				c.ConfigSynonyms = append(c.ConfigSynonyms, syn)
			}
			if !req.IncludeDocumentation {
				c.Documentation = nil
			}
			rr.Configs = append(rr.Configs, c)
		}
		resp.Resources = append(resp.Resources, rr)
	}
	respond(r, resp)
}

func (s *Server) configs(want kmsg.DescribeConfigsRequestResource) ([]kmsg.DescribeConfigsResponseResourceConfig, error) {
	switch want.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		t, ok := s.topics.Topic(want.ResourceName)
		if !ok {
			if err := catalog.CheckName(want.ResourceName); err != nil {
				return nil, err
			}
			return nil, errUnknownTopic
		}
		return topicConfigs(t), nil
	case kmsg.ConfigResourceTypeBroker:
		if want.ResourceName != "" && want.ResourceName != strconv.Itoa(int(s.cfg.NodeID)) {
			return nil, errUnknownResource
		}
		return s.brokerConfigs(), nil
	}
	return nil, errUnknownResource
}

// topicConfigs are a topic's settings: what was set, and defaults.
func topicConfigs(t catalog.Topic) []kmsg.DescribeConfigsResponseResourceConfig {
	var all []kmsg.DescribeConfigsResponseResourceConfig
	for _, d := range catalog.Definitions() {
		c := config(d.Name, d.Default, kindOf(d.Kind), d.Doc)
		if v, ok := t.Config[d.Name]; ok {
			c.Value, c.IsDefault, c.Source = ptr(v), false, kmsg.ConfigSourceDynamicTopicConfig
		}
		all = append(all, c)
	}
	return all
}

func (s *Server) brokerConfigs() []kmsg.DescribeConfigsResponseResourceConfig {
	all := []kmsg.DescribeConfigsResponseResourceConfig{
		config("auto.create.topics.enable", strconv.FormatBool(s.cfg.AutoCreate), kmsg.ConfigTypeBoolean, "create a topic when a client asks for its metadata"),
		config("broker.id", strconv.Itoa(int(s.cfg.NodeID)), kmsg.ConfigTypeInt, "this broker"),
		config("default.replication.factor", "1", kmsg.ConfigTypeInt, "the object store keeps the copies"),
		config("fetch.max.bytes", strconv.Itoa(s.cfg.MaxFetchBytes), kmsg.ConfigTypeInt, "largest fetch"),
		config("num.partitions", strconv.Itoa(int(s.cfg.DefaultPartitions)), kmsg.ConfigTypeInt, "partitions of a topic whose creator does not say"),
	}
	for i := range all {
		all[i].ReadOnly, all[i].IsDefault, all[i].Source = true, false, kmsg.ConfigSourceStaticBrokerConfig
	}
	return all
}

func config(name, value string, kind kmsg.ConfigType, doc string) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.IsDefault, c.Source = name, ptr(value), true, kmsg.ConfigSourceDefaultConfig
	c.ConfigType, c.Documentation = kind, ptr(doc)
	return c
}

func kindOf(k catalog.Kind) kmsg.ConfigType {
	switch k {
	case catalog.KindBool:
		return kmsg.ConfigTypeBoolean
	case catalog.KindInt:
		return kmsg.ConfigTypeInt
	case catalog.KindLong:
		return kmsg.ConfigTypeLong
	case catalog.KindDouble:
		return kmsg.ConfigTypeDouble
	case catalog.KindList:
		return kmsg.ConfigTypeList
	}
	return kmsg.ConfigTypeString
}
